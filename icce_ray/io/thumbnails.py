"""Small copies of pictures for a page, as WebP."""

from __future__ import annotations

import io

from PIL import Image

from icce_ray.io.decode import decode_whole


def thumbnail(data: bytes, *, longest: int, max_pixels: int, quality: int = 60) -> bytes:
    """The whole picture with neither side above `longest` pixels, as a WebP file.

    Nothing of the file but its pixels goes along. Raises Reject as `decode_whole` does.
    """
    sink = io.BytesIO()
    Image.fromarray(decode_whole(data, longest=longest, max_pixels=max_pixels)).save(
        sink, "WEBP", quality=quality, method=2
    )
    return sink.getvalue()
