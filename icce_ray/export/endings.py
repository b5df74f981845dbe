"""The ending that an image's bytes call for."""

from __future__ import annotations

import re

from icce_ray.io.decode import Reject

#: Bytes of a file that tell its format.
HEAD = 16
# First bytes of the formats of io.decode, and the endings they go by, the usual one first.
_STARTS: tuple[tuple[re.Pattern[bytes], tuple[str, ...]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), (".jpg", ".jpeg")),
    (re.compile(rb"\x89PNG"), (".png",)),
    (re.compile(rb"GIF8"), (".gif",)),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), (".webp",)),
    (re.compile(rb"BM"), (".bmp",)),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), (".tif", ".tiff")),
    (re.compile(rb"P[14]"), (".pbm", ".pnm", ".ppm")),
    (re.compile(rb"P[25]"), (".pgm", ".pnm", ".ppm")),
    (re.compile(rb"P[36]"), (".ppm", ".pnm")),
    (re.compile(rb"P[fF]"), (".pnm", ".ppm")),
)


def ending_of(head: bytes, key: str) -> str:
    """The ending for an image that starts with `head`: that of `key` in small letters if it is one of its format.

    Raises Reject for bytes that are no image: a file that was replaced after it had been labelled.
    """
    for start, endings in _STARTS:
        if start.match(head):
            own = f".{key.rpartition('.')[2].lower()}"
            return own if own in endings else endings[0]
    raise Reject("not_an_image", f"it starts with {head[:8]!r}, no image's")
