"""JSON and YAML that come from outside, read in one place: bounded, and nothing but plain values.

Whoever reads such a file turns `DocumentError` into an error of its own, with the file's name and the remedy. Files of
a run are sealed: their last key, `sha256`, is that of the whole file with nothing between the quotes of its value, so
that a changed byte is seen. Those of earlier versions have none and are read as they are.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import yaml
from pydantic import AfterValidator, TypeAdapter, ValidationError

T = TypeVar("T")

#: Bytes. PyYAML takes some ten seconds for a megabyte; a marker of a million files has 200 MB.
MOST_YAML, MOST_JSON = 1 << 18, 1 << 30
#: Maps and lists within each other, and digits of a number. Files of runs have 6 and 19 at most.
MOST_DEPTH, MOST_DIGITS = 32, 50
_INT64 = 1 << 63
_CHECKSUM = "sha256"
#: How a file ends that has a checksum, whatever became of the key.
_END = re.compile(rb"[0-9a-f]{64}['\"]\W*$")


def _moment(text: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None or not 1970 <= moment.astimezone(datetime.UTC).year < 9999:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError("give a time with its zone since 1970, such as 2026-01-31T12:00:00+00:00") from None
    return text


#: A moment as text, ISO 8601 with its zone: two of them can be compared.
Moment = Annotated[str, AfterValidator(_moment)]


def now() -> str:
    """This moment, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class DocumentError(ValueError):
    """Content that cannot be used; the message is one line that names the value and the limit, not the file."""


def parse_json(data: bytes | str, *, most: int = MOST_JSON) -> Any:
    """Plain values: numbers below 2^63, text that can be written again, no key twice. Raises DocumentError."""
    _check_size(data, most)
    try:
        content = json.loads(data, parse_int=_json_integer, object_pairs_hook=_mapping)
    except RecursionError:
        raise _too_deep() from None
    except DocumentError:
        raise
    except ValueError as error:  # UnicodeDecodeError too
        raise DocumentError(f"not JSON: {error}") from error
    _check_depth_and_text(content)
    return content


def parse_yaml(data: bytes | str) -> Any:
    """Maps with keys of text, lists, text, numbers, true, false and null; a date is text. Raises DocumentError.

    Anchors, aliases and tags are refused: a few lines of them can stand for any amount of memory, or for themselves.
    """
    _check_size(data, MOST_YAML)
    try:
        content = yaml.load(data, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader that knows less
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DocumentError(f"not YAML: {problem}{where}") from error
    except yaml.YAMLError as error:
        raise DocumentError(f"not YAML: {shown(' '.join(str(error).split()))}") from error
    _check_depth_and_text(content)
    return content


def read_yaml_map(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The map that a local YAML file holds. Raises DocumentError, also where there is no such file."""
    try:
        content = parse_yaml(read_regular(path))
    except FileNotFoundError:
        raise DocumentError("no such file") from None
    except (DocumentError, OSError) as error:
        raise DocumentError(f"cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise DocumentError(f"holds {type(content).__name__}, not a map of names to values")
    return content


def shaped(kind: type[T], content: Any) -> T:
    """`content` as an instance of a pydantic model, a dataclass or any other type. Raises DocumentError."""
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise DocumentError(_first_fault(error)) from error


@lru_cache(maxsize=64)
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _first_fault(error: ValidationError) -> str:
    """The first fault in one line, and how many there are besides."""
    first, *others = error.errors(include_url=False)
    name = ".".join(str(part) for part in first["loc"]) or "the whole"
    more = f" (and {len(others)} more faults)" if others else ""
    if first["type"] == "missing":
        return f"{shown(name, plain=True)} is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{shown(name, plain=True)} = {shown(first['input'])}: {message}{more}"


def shown(value: Any, most: int = 80, *, plain: bool = False) -> str:
    """A value for a message: its `repr`, or with `plain` the text itself, cut short."""
    try:
        text = value if plain and isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of more than 4,300 digits"
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text):,} characters)"


def read_regular(path: str | os.PathLike[str], *, most: int = MOST_JSON) -> bytes:
    """Content of a local file. DocumentError for one that is too large, or is a pipe, a device, a folder.

    These are never opened for long: a pipe would be waited for, a device never ends. OSError where it cannot be read.
    """
    path = Path(path)
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    _check_size(data, most)
    return data


def check_regular(path: str | os.PathLike[str]) -> None:
    """DocumentError for a local path that is neither a file nor missing. OSError where it cannot be looked at."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kinds = {"d": "a folder", "p": "a pipe", "c": "a device", "b": "a device", "s": "a socket"}
        raise DocumentError(f"it is {kinds.get(stat.filemode(mode)[0], 'something else')}, not a file")


def _check_size(data: bytes | str, most: int) -> None:
    if len(data) > most:
        raise DocumentError(f"it has more than the {most:,} bytes that are read")


def _check_depth_and_text(content: Any) -> None:
    level, depth = [content], 0
    while level:
        if depth > MOST_DEPTH:
            raise _too_deep()
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                _check_text(value)
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode(errors="surrogateescape")  # as Python writes names of files that are not UTF-8
        except UnicodeEncodeError:  # half of a pair, as "\ud800"
            raise DocumentError(f"{shown(text)} is no text that can be written") from None


def _too_deep() -> DocumentError:
    return DocumentError(f"maps and lists lie within each other more than {MOST_DEPTH} deep")


def _json_integer(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= (number := int(text)) < _INT64:
        raise DocumentError(f"the number {shown(text, plain=True)} is not between -2^63 and 2^63")
    return number


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise DocumentError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return content


class _PlainLoader(yaml.SafeLoader):
    """YAML as JSON with comments: no tags, anchors, aliases or dates, and bounds on depth and numbers."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse(event, "anchors and aliases are not read; write the value in each place")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, f"the tag {shown(event.tag)} is not read; leave it out")
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _too_deep()
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        pairs = [
            (self.construct_object(key, deep=True), self.construct_object(value, deep)) for key, value in node.value
        ]
        if any(isinstance(key, (dict, list)) for key, _ in pairs):
            self._refuse(node, "a key is a map or a list; give text")
        return _mapping([(str(key), value) for key, value in pairs])

    def number(self, node: Any) -> int | float:
        text = node.value
        if len(text) > MOST_DIGITS:
            raise DocumentError(f"the number {shown(text, plain=True)} has more than {MOST_DIGITS} digits")
        whole = node.tag.endswith(":int")
        try:
            return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        except ValueError:  # as of `0b_`
            self._refuse(node, f"{shown(text)} is no number; put text between quotes")

    @staticmethod
    def _refuse(at: Any, problem: str) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _PlainLoader.number)


# -- files with a checksum of their own ------------------------------------------------------------------------------


def sealed_json(content: dict[str, Any]) -> bytes:
    """A JSON object and its checksum, one key a line."""
    whole = content | {_CHECKSUM: ""}
    try:
        body = json.dumps(whole, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        body = json.dumps(whole, indent=1).encode()
    return _sealed(body, b'"')


def sealed_yaml(content: dict[str, Any]) -> bytes:
    """A YAML mapping and its checksum, in the order of its keys."""
    return _sealed(yaml.safe_dump(content, sort_keys=False).encode() + f"{_CHECKSUM}: ''\n".encode(), b"'")


def opened_json(data: bytes) -> dict[str, Any]:
    """Content without the checksum. Raises DocumentError for what is no JSON object or was changed since."""
    return _opened(data, parse_json(data), b'"', strict=True)


def opened_yaml(data: bytes, *, strict: bool = False) -> dict[str, Any]:
    """The same of YAML, which people may edit: only `strict` asks for the checksum."""
    return _opened(data, parse_yaml(data), b"'", strict=strict)


def _sealed(body: bytes, quote: bytes) -> bytes:
    before, _, after = body.rpartition(2 * quote)
    return before + quote + hashlib.sha256(body).hexdigest().encode() + quote + after


def _opened(data: bytes, content: Any, quote: bytes, *, strict: bool) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DocumentError(f"it holds {type(content).__name__}, not names with values")
    digest = content.pop(_CHECKSUM, None)
    if strict and (digest is not None or _END.search(data)):
        before, held, after = data.rpartition(quote + str(digest).encode(errors="replace") + quote)
        if not held or hashlib.sha256(before + 2 * quote + after).hexdigest() != digest:
            raise DocumentError("its sha256 is not that of its content, which was changed since it was written")
    return content
