"""Bytes of an image file to an RGB square, as a viewer shows the picture, or a `Reject` with a reason code.

Buckets hold anything: truncated uploads, web pages named .jpg, decompression bombs. Every way in which Pillow fails
on such bytes ends as a `Reject` from a small closed set, so that a bad image never stops a run and a report can
count the reasons. Nothing here changes Pillow's global settings.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

# The plugins of the formats below, loaded here: Pillow would otherwise load all of its forty on first need.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from icce_ray.io.quality import Figures, measured
from icce_ray.io.rendering import Resize, Resizing, rgb, square

Reason = Literal[
    "unreadable",  # the bytes could not be fetched (raised by the caller that fetches)
    "empty",  # zero bytes
    "not_an_image",  # no image format that we know by its first bytes
    "format_not_allowed",  # an image or document of a format outside the allow-list
    "too_many_pixels",  # the header announces more than max_pixels
    "too_many_bytes",  # the file is larger than max_bytes (raised by the caller that fetches)
    "truncated",  # the file ends before the picture does
    "decode_error",  # damaged or unsupported content
]
REASONS: tuple[str, ...] = get_args(Reason)
Made = TypeVar("Made")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# First bytes of the allowed formats: a file that has them and cannot be opened is damaged, not something else.
_ALLOWED_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF"),
)
# Formats that people do put into image folders and that stay outside the allow-list: rarely needed, large or unsafe
# decoders.
_OTHER_STARTS = (
    *(b"%PDF", b"%!PS", b"8BPS", b"\0\0\1\0", b"\0\0\2\0", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"\xff\x0a"),
    *(b"DDS ", b"qoif", b"\x76\x2f\x31\x01", b"SIMPLE", b"<svg", b"\xc5\xd0\xd3\xc6", b"\0\0\0\x0cJXL"),
)
# What Pillow's plugins were seen to raise on damaged files (see tests/unit/io/test_decode_properties.py).
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError),
    *(MemoryError, RuntimeError, AssertionError, struct.error, zlib.error),
)
# Pictures up to this side are stored with nearly all their quality: pages show them several times as large.
_SMALL = 48
# Twenty bytes per pixel are normal on the way: pictures above this are decoded one at a time in a process.
_LARGE_PIXELS = 16_000_000
_one_large = threading.Lock()
_TURNED = (5, 6, 7, 8)  # values of EXIF's orientation that exchange width and height
# Small files that keep a decoder busy for minutes. Progressive JPEGs have some 10 scans, 256 would refine each bit of
# each coefficient; Pillow reads comments of plain PPM byte by byte, and what lies between a JPEG's segments.
_MOST_SCANS, _MOST_COMMENTS, _MOST_READS = 256, 1000, 1_000_000
# Between the segments of a JPEG lie a scan's bytes, in which 0xff is followed by 0, a restart or another 0xff.
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Reject(Exception):
    """An input that cannot become an image.

    Attributes:
        reason: one of `REASONS`, for counting.
        detail: what was found, for the user.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, so that it pickles
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def decode(data: bytes, *, size: int, resize: Resize | Resizing, max_pixels: int) -> np.ndarray:
    """The picture in `data` as uint8 [size, size, 3], RGB.

    Shown as a viewer does: EXIF orientation, palette, CMYK, first frame of an animation, alpha over white.
    16-bit grey is divided by 257; integer and float grey of another range is brought to 0..255 (`rendering`). Colour
    profiles are ignored. Large JPEGs are decoded at 1/2, 1/4 or 1/8 as long as twice the wanted resolution is
    left: twice as fast on photographs of 2 million pixels, three times of 12 million, 0.2 to 1.1 of 255 mean
    difference (tests allow 1.5 on average and 12 at most).

    Args:
        data: the file's bytes: one of `FORMATS`, recognised by content, never by name.
        size: side of the result in pixels.
        resize: a backbone's own `Resizing`, or a word: `squash` takes the whole picture to the square,
            ignoring its aspect ratio (ICCE resizes to 224); `crop` takes the shorter side to size * 256 / 224 and cuts
            the centre (DINOv2's evaluation). Both bicubic. With antialiasing, as Pillow does it, to 1 of 255
            (`rendering.square`).
        max_pixels: largest width * height, checked in the header before anything is decoded. Pillow's own limit
            (`2 * Image.MAX_IMAGE_PIXELS`, 179 million) stays in force above it.

    Raises Reject for bad data; ValueError for bad arguments. Safe to call from several threads.
    """
    resizing = resize if isinstance(resize, Resizing) else Resizing.named(resize, size)
    return decode_each(data, wanted=[(size, resizing)], max_pixels=max_pixels)[0]


def decode_each(data: bytes, *, wanted: Sequence[tuple[int, Resizing]], max_pixels: int) -> list[np.ndarray]:
    """`decode` for several backbones, each with its size and resizing: the picture is decoded once.

    A large JPEG is decoded for the largest of them, so that the others may differ a little from what they get alone.
    """
    return _decoded(data, max_pixels, _enough(wanted, max_pixels), lambda image, _: _squares(image, wanted))


def decode_and_measure(
    data: bytes, *, wanted: Sequence[tuple[int, Resizing]], max_pixels: int
) -> tuple[list[np.ndarray], Figures]:
    """`decode_each`, and figures of the picture; the squares are the same."""

    def finish(image: Image.Image, size: tuple[int, int]) -> tuple[list[np.ndarray], Figures]:
        return _squares(image, wanted), measured(image, size, data)

    return _decoded(data, max_pixels, _enough(wanted, max_pixels), finish)


def _enough(wanted: Sequence[tuple[int, Resizing]], max_pixels: int) -> int:
    """Pixels a side that these squares are made of as well as of more."""
    sizes = [size for size, _ in wanted]
    if min(sizes) < 1 or max_pixels < 1:
        raise ValueError(f"size {min(sizes)} and max_pixels {max_pixels} must be at least 1")
    return 2 * max(resizing.side or size for size, resizing in wanted)


def _squares(image: Image.Image, wanted: Sequence[tuple[int, Resizing]]) -> list[np.ndarray]:
    return [square(image, *one) for one in wanted]


def thumbnail(data: bytes, *, longest: int, max_pixels: int) -> bytes:
    """The whole picture in `data`, shown as `decode` does, as a WebP file with neither side above `longest`.

    The aspect ratio stays; a smaller picture keeps its size, one of up to 48 pixels nearly all of its quality; nothing
    of `data` but its pixels goes along. Raises Reject for bad data; ValueError for bad arguments.
    """
    if longest < 1 or max_pixels < 1:
        raise ValueError(f"longest {longest} and max_pixels {max_pixels} must be at least 1")

    def small(image: Image.Image, _: tuple[int, int]) -> np.ndarray:
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        return np.asarray(image.convert("RGB"))

    sink, picture = io.BytesIO(), Image.fromarray(_decoded(data, max_pixels, 2 * longest, small))
    picture.save(sink, "WEBP", quality=60 if max(picture.size) > _SMALL else 90, method=2)
    return sink.getvalue()


def _decoded(data: bytes, max_pixels: int, enough: int, finish: Callable[[Image.Image, tuple[int, int]], Made]) -> Made:
    """What `finish` makes of the upright picture and of its width and height.

    A JPEG may come smaller, with both sides `enough` at least.
    """
    with _pillow_quiet:
        try:
            image = _open(data, max_pixels)
            width, height = image.size
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft(None, (enough, enough))
            with _one_large if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext():
                image.load()
                with contextlib.suppress(*_PILLOW_ERRORS):  # EXIF that cannot be read counts as none, as viewers do
                    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
                    ImageOps.exif_transpose(image, in_place=True)  # behind load(): PNG keeps it behind the pixels
                    width, height = (height, width) if turned else (width, height)
                return finish(rgb(image), (width, height))
        except UnidentifiedImageError as error:
            raise _unidentified(data) from error
        except Image.DecompressionBombError as error:
            raise Reject("too_many_pixels", str(error)) from error
        except _PILLOW_ERRORS as error:
            raise _damaged(data, error) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and its size checked, nothing decoded."""
    if not data:
        raise Reject("empty", "the file has 0 bytes")
    if data.startswith((b"P1", b"P2", b"P3")) and (comments := data.count(b"#")) > _MOST_COMMENTS:
        raise Reject("decode_error", f"a plain PPM with {comments} comments; the limit is {_MOST_COMMENTS}")
    image = Image.open(_Counted(data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise Reject("too_many_pixels", f"{width} x {height} pixels are more than the limit of {max_pixels}")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tile(image, max_pixels)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _check_scans(image, data)
    if width < 1 or height < 1:
        raise Reject("decode_error", f"{width} x {height} pixels")
    return image


class _Counted(io.BytesIO):
    """The file as Pillow reads it, which ends where it takes too many reads: a header of a megabyte of single bytes."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file. Raises Reject."""
        self.reads += 1
        if self.reads > _MOST_READS:
            raise Reject("decode_error", f"it takes more than {_MOST_READS} reads, which no picture needs")
        return super().read(size)


def _check_scans(image: JpegImagePlugin.JpegImageFile, data: bytes) -> None:
    """Raise Reject for a JPEG that takes much longer than its size and its pixels say."""
    if "progressive" not in image.info:
        first = next((end for marker, end in _markers(data) if marker == _SCAN), None)
        # A first scan of all components is the only one.
        if first is not None and data[first + 2 : first + 3] >= bytes([image.layers]):
            return
    if data.count(_SCAN) <= _MOST_SCANS:
        return
    scans = (marker for marker, _ in _markers(data) if marker == _SCAN)
    if sum(1 for _ in itertools.islice(scans, _MOST_SCANS + 1)) > _MOST_SCANS:
        raise Reject("decode_error", f"a JPEG of more than {_MOST_SCANS} scans")


def _markers(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(marker, place behind it) of a JPEG up to its end; what lies behind, a film perhaps, is not read."""
    at, count = 2, 0
    while (found := _MARKER.search(data, at)) and found[0] != b"\xff\xd9":
        count += 1
        if count > _MOST_READS:
            raise Reject("decode_error", f"a JPEG of more than {_MOST_READS} segments")
        yield found[0], found.end()
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _check_tile(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Raise Reject for a tile beyond the limit: it is decoded whole, however small the picture that it covers."""
    sides = [image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
    width, height = (side if isinstance(side, int) else 1 for side in sides)
    if width * height > max_pixels:
        raise Reject("too_many_pixels", f"tiles of {width} x {height} pixels are more than the limit of {max_pixels}")


def _damaged(data: bytes, error: BaseException) -> Reject:
    """`truncated` if Pillow says so or the file is shorter than its own header announces, else `decode_error`."""
    announced = 0
    if data[:4] == b"RIFF":  # WebP: the length of all that follows
        announced = 8 + int.from_bytes(data[4:8], "little")
    elif data[:2] in (b"II", b"MM"):  # TIFF: where the directory lies, often behind the pixels
        announced = int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big") + 2
    short = len(data) < announced or "truncated" in str(error).lower()
    return Reject("truncated" if short else "decode_error", f"{type(error).__name__}: {error}"[:200])


def _unidentified(data: bytes) -> Reject:
    start = data.lstrip()[:16]
    if data.startswith(_ALLOWED_STARTS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return _damaged(data, SyntaxError(f"damaged header, starts with {data[:8]!r}, {len(data)} bytes"))
    # ISO media files (HEIC, AVIF, video) carry "ftyp" at byte 4.
    drawing = start.startswith(b"<?xml") and b"<svg" in data[:1024]
    if start.startswith(_OTHER_STARTS) or data.startswith(_OTHER_STARTS) or data[4:8] == b"ftyp" or drawing:
        return Reject("format_not_allowed", f"starts with {data[:12]!r}; allowed: {', '.join(FORMATS)}")
    return Reject("not_an_image", f"starts with {data[:12]!r}, {len(data)} bytes")


class _PillowQuiet:
    """Silences warnings raised inside Pillow while any thread decodes.

    `warnings.catch_warnings` alone is not safe in threads: two that overlap can leave the filter of one behind. The
    first thread in sets it, the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock, self._filter = threading.Lock(), contextlib.ExitStack()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filter.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filter.close()


_pillow_quiet = _PillowQuiet()
