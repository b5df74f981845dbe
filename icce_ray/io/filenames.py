r"""Names of files as text and back: any bytes but NUL may be a file's name, a table holds UTF-8 only.

A byte that is not UTF-8 stands as `\xHH` (`caf\xe9.jpg` for Latin-1). A name that has such letters of its own keeps
them apart by `\x5c` for its backslash, so that no two names become one and each is found again. All other names stay as
they are.
"""

from __future__ import annotations

import re

# What `to_text` writes: of a byte above ASCII, or of the backslash of a name that looks as if this had written it.
_SHOWN = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def to_text(name: str | bytes) -> str:
    """A file's name as text that is UTF-8. `name` is bytes, or as Python gives it (`surrogateescape`)."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if "\\x" in name:
        name = _SHOWN.sub(r"\\x5cx\1", name)
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_bytes(text: str) -> bytes:
    """The name's bytes that `to_text` gave as `text`."""
    if "\\x" not in text:
        return text.encode()
    return _SHOWN.sub(lambda found: chr(0xDC00 + int(found[1], 16)) if found[1] != "5c" else "\\", text).encode(
        "utf-8", "surrogateescape"
    )
