"""Files of a run that hold their own checksum, so that whoever reads them sees that a byte was changed.

The last key is `sha256`: that of the whole file with nothing between the quotes of its value. Files of versions before
this have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import yaml

from icce_ray.documents import DocumentError, parse_json, parse_yaml

_KEY = "sha256"
#: How a file ends that has a checksum, whatever became of the key.
_END = re.compile(rb"[0-9a-f]{64}['\"]\W*$")


def sealed_json(content: dict[str, Any]) -> bytes:
    """A JSON object and its checksum, one key a line."""
    whole = content | {_KEY: ""}
    try:
        body = json.dumps(whole, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        body = json.dumps(whole, indent=1).encode()
    return _sealed(body, b'"')


def sealed_yaml(content: dict[str, Any]) -> bytes:
    """A YAML mapping and its checksum, in the order of its keys."""
    return _sealed(yaml.safe_dump(content, sort_keys=False).encode() + f"{_KEY}: ''\n".encode(), b"'")


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
    digest = content.pop(_KEY, None)
    if strict and (digest is not None or _END.search(data)):
        before, found, after = data.rpartition(quote + str(digest).encode(errors="replace") + quote)
        if not found or hashlib.sha256(before + 2 * quote + after).hexdigest() != digest:
            raise DocumentError("its sha256 is not that of its content, which was changed since it was written")
    return content
