"""Names of files as bytes: all that a file system or an archive can hold."""

import os

from hypothesis import strategies as st

#: What markup, shells, spreadsheets, C, tables or terminals take for something else, and bytes that are no UTF-8.
HOSTILE = (
    b"caf\xe9",
    b"\\xe9",
    b"\\x5cxe9",
    b"\xed\xa0\x80",  # a surrogate
    b"\xc0\xaf",  # a slash in too many bytes
    "\U0001f600\u200d\ufe0f".encode(),
    "\u202egnp\u05d0\u0627".encode(),
    "e\u0301 \u00e9".encode(),
    b"</script><script>",
    b"[/x][bold]:x:",
    b"{{7*7}}${7}%s%00",
    b"100%25 a+b&c=d?e#f",
    b"s3:",
    b"\n",
    b"a\r\nb",
    b"\x1b[31m\x07",
    b"=1+1",
    b"'+1+1",
    b'"a","b";',
    b"-rf",
    b"~",
    b" ",
    b"con",
    b"nul.",
    b"_metadata",
    b"x" * 240,
    b".hidden",
)


def _component(data):
    """As a part of a path: no NUL, no slash, 240 bytes, neither of the two names that every folder has."""
    data = data.replace(b"\0", b"_").replace(b"/", b"_")[:240]
    return b"_" if data in (b".", b"..") else data


components = st.one_of(
    st.sampled_from(HOSTILE),
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
).map(_component)
#: Paths of pictures, with folders above some of them.
paths = st.builds(
    lambda folders, name: b"/".join([*folders, name + b".png"]), st.lists(components, max_size=2), components
)


def written(folder, names, data):
    """Write `data(index)` to each file below `folder`; the names that could be: a file cannot be a folder as well."""
    found = []
    for index, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data(index))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        found.append(name)
    return found


def is_hidden(name):
    """Whether a part of a path has a leading dot; such files are counted, not read."""
    return any(part.startswith(b".") for part in name.split(b"/"))
