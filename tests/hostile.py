"""A folder of hostile and odd files, each with its expected outcome.

`contents()` are bytes for `decode` alone; `write(folder)` makes a whole source of them, with names, links and pipes on
top, and says what a run must make of each.
"""

import os
import struct
import zipfile
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
from pictures import encode, files, frames, scene
from PIL import Image

#: Limit on pixels that the expectations below are for; pictures that are meant to pass stay under it.
MAX_PIXELS = 1_000_000
TOO_MANY, CUT, DAMAGED, FOREIGN = "too_many_pixels", "truncated", "decode_error", "format_not_allowed"


class Content(NamedTuple):
    """Bytes and what decoding them gives: `ok` or a reason. A flat picture has no structure, so its feature is zero."""

    data: bytes
    outcome: str = "ok"
    flat: bool = False


class Corpus(NamedTuple):
    """What a run must make of a folder: outcome by key, and the number of names left out of the listing, by kind."""

    outcomes: dict[str, str]
    left_out: dict[str, int]


# -- pieces of formats -------------------------------------------------------------------------------------------


def chunk(kind, body):
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, pixels, *chunks, depth=8, colour=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def squeezed(size):
    """`size` zero bytes, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(min(1 << 20, size - at))) for at in range(0, size, 1 << 20)) + packer.flush()


def tiff(tags, body):
    """Little-endian TIFF of the tags {number: value}, the pixels behind them."""
    tags = {258: 8, 259: 8, 262: 1, 277: 1} | tags
    offset = 8 + 2 + 12 * len(tags) + 4
    data = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for number, value in sorted(tags.items()):
        data += struct.pack("<HHII", number, 4, 1, offset if value is None else value)
    return data + bytes(4) + body


def webp_canvas(side):
    """An animated WebP whose canvas is side x side and whose one frame is small."""
    frame = encode(scene(16, 16), "WEBP", lossless=True)[12:]
    three = [(side - 1).to_bytes(3, "little")] * 2
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + b"".join(three)
    head = bytes(6) + (15).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    body = extended + animation + b"ANMF" + struct.pack("<I", len(head) + len(frame)) + head + frame
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def resized_header(data, place, layout, *sides):
    """A valid file whose header announces other sides."""
    return data[:place] + struct.pack(layout, *sides) + data[place + struct.calcsize(layout) :]


def scans(count):
    """A progressive JPEG whose last scan is repeated: small to store, long to decode."""
    data = encode(scene(64, 64), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def planes(count):
    """A JPEG without progression that gives each component a scan of its own, the last one again and again."""
    grey = encode(scene(64, 64)[:, :, 0], "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    sides = grey[frame + 4 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    header = b"\xff\xc0" + struct.pack(">H", 17) + sides + b"\x03" + components
    tables = grey[frame + 2 + struct.unpack(">H", grey[frame + 2 : frame + 4])[0] : scan]
    pixels = grey[scan + 10 : -2]
    alone = [b"\xff\xda\x00\x08\x01" + bytes([number, 0]) + b"\x00\x3f\x00" + pixels for number in (1, 2, 3)]
    return grey[:frame] + header + tables + b"".join(alone) + alone[-1] * count + b"\xff\xd9"


# -- contents ----------------------------------------------------------------------------------------------------


def _good():
    """Valid, odd or slightly broken files that viewers show."""
    rgb, exif = Image.fromarray(scene()), Image.Exif()
    found = {f"mode-{name}": data for name, data in files().items()}
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        found[f"orientation-{orientation}.jpg"] = encode(rgb, "JPEG", exif=exif)
    jpeg, image = encode(rgb, "JPEG"), encode(rgb, "PNG")
    end = image.rindex(b"IEND") - 4
    crc = image[end - 4] ^ 1  # of the pixels, which have a checksum of their own inside
    shown = {
        "png-named.jpg": image,
        "jpeg-named.png": jpeg,
        "gif-named.bmp": found["mode-P.gif"],
        "junk-behind.jpg": jpeg + b"junk" * 500,
        "zip-behind.jpg": jpeg + zipped(),
        "page-behind.png": image + b"<script>alert(1)</script>",
        "twice.jpg": jpeg * 2,
        "no-end-marker.png": image[:end],
        "bad-crc.png": image[: end - 4] + bytes([crc]) + image[end - 3 :],
        "no-screen.gif": resized_header(found["mode-P.gif"], 6, "<HH", 0, 0),  # the frame says its size as well
        "standard-tables.jpg": jpeg.replace(b"\xff\xc4", b"\xff\xee"),  # as films have them: the tables are implied
        "inflates-beyond.png": png(24, 24, zlib.compress(rows(scene()[:, :, 0]) + bytes(30_000_000), 9)),
        "bad-exif.jpg": encode(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"),
        "bad-profile.png": encode(rgb, "PNG", icc_profile=b"no profile"),
        "bad-profile.jpg": encode(rgb, "JPEG", icc_profile=b"no profile" * 9000),
        "strip-wide.png": encode(scene(1, 30_000), "PNG"),
        "strip-tall.png": encode(scene(30_000, 1), "PNG"),
        "strip-tall.gif": encode(Image.fromarray(scene(30_000, 1)).quantize(8), "GIF"),
        "big-endian.tif": encode(np.linspace(0, 65535, 576).reshape(24, 24).astype(">u2"), "TIFF"),
        "big.tif": encode(rgb, "TIFF", big_tiff=True),
        "comment.gif": encode(rgb.quantize(8), "GIF", comment=b"c" * 100_000),
        "many-scans.jpg": scans(100),
        "planes.jpg": planes(0),
    }
    single = {
        "one-pixel.png": encode(scene(1, 1), "PNG"),
        "one-pixel.gif": encode(Image.new("P", (1, 1)), "GIF"),
        "one-pixel.jpg": encode(Image.new("L", (1, 1)), "JPEG"),
        "all-clear.png": encode(Image.new("RGBA", (24, 24)), "PNG"),
    }
    return {name: Content(data) for name, data in (found | shown).items()} | {
        name: Content(data, flat=True) for name, data in single.items()
    }


def rows(grey):
    """Rows of a PNG without filters."""
    return b"".join(b"\0" + row.tobytes() for row in grey)


def zipped():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.txt", "text")
    return buffer.getvalue()


def _bombs():
    """Files whose headers or contents are much larger than themselves."""
    rgb = encode(scene(), "BMP")
    jpeg = encode(scene(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    small = files()["P.gif"]
    place = small.index(b"\x2c", 13 + 3 * 16)  # the frame's own position and size
    gif_frame = resized_header(small, place + 5, "<HH", 60_000, 60_000)
    announced = {
        "bomb-1001.png": png(1001, 1000, b""),
        "bomb-warned.png": png(12_000, 12_000, b""),
        "bomb-refused.png": png(60_000, 60_000, b""),
        "bomb-largest.png": png(2**31 - 1, 2**31 - 1, b""),
        "bomb-inflates.png": png(10_000, 10_000, squeezed(10_001 * 10_000)),
        "bomb-bits.png": png(30_000, 30_000, squeezed(3_751 * 30_000), depth=1),
        "bomb-screen.gif": resized_header(small, 6, "<HH", 65_535, 65_535),
        "bomb-frame.gif": gif_frame,
        "bomb-canvas.webp": webp_canvas(16_383),
        "bomb-canvas-small.webp": webp_canvas(1_001),
        "bomb.jpg": resized_header(jpeg, size, ">HH", 65_500, 65_500),
        "bomb.bmp": resized_header(rgb, 18, "<ii", 100_000, 100_000),
        "bomb-upside-down.bmp": resized_header(rgb, 18, "<ii", 100_000, -100_000),
        "bomb.ppm": b"P6 100000 100000 255\n" + bytes(100),
        "bomb.tif": tiff({256: 100_000, 257: 100_000, 273: None, 278: 100_000, 279: 20}, bytes(20)),
        "bomb-tile.tif": tiff({256: 16, 257: 16, 322: 20_000, 323: 20_000, 324: None, 325: 20}, bytes(20)),
    }
    packed = squeezed(20_000 * 20_000)
    inflates = {256: 16, 257: 16, 322: 20_000, 323: 20_000, 324: None, 325: len(packed)}
    text = [chunk(b"zTXt", b"Comment\0\0" + squeezed(100_000_000))]
    return {name: Content(data, TOO_MANY) for name, data in announced.items()} | {
        "bomb-tile-inflates.tif": Content(tiff(inflates, packed), TOO_MANY),
        "bomb-text.png": Content(png(24, 24, zlib.compress(rows(scene()[:, :, 0])), *text), DAMAGED),
        "bomb-fill.jpg": Content(jpeg[:2] + b"\xff" * 1_100_000 + jpeg[2:], DAMAGED),
        "bomb-junk.jpg": Content(jpeg[:20] + bytes(1_100_000) + jpeg[20:], DAMAGED),
        "bomb-scans.jpg": Content(scans(1000), DAMAGED),
        "bomb-planes.jpg": Content(planes(1000), DAMAGED),
        "bomb-comments.ppm": Content(b"P3\n9 9\n255\n" + b"#\n" * 1_000_000, DAMAGED),
    }


def _broken():
    """Damaged files, and things that are no images under the names of images."""
    image, jpeg = encode(scene(), "PNG"), encode(scene(), "JPEG")
    no_palette = png(24, 24, zlib.compress(rows(scene()[:, :, 0])), colour=3, depth=8)
    no_images = {
        "text.jpg": b"this is a note, not a picture",
        "page.jpg": b"<!doctype html><html><body>404 Not Found</body></html>",
        "error.png": b'{"error": {"code": 403, "message": "forbidden"}}',
        "zip.jpg": zipped(),
        "gzip.png": b"\x1f\x8b\x08\0" + bytes(60),
        "zeros.png": bytes(1000),
        "noise.gif": np.random.default_rng(0).bytes(1000),
        "newline.jpg": b"\n",
        "elf.png": b"\x7fELF" + bytes(60),
        "wav.webp": b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(32),
    }
    other_formats = {
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
        "drawing-declared.png": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
        "document.png": b"%PDF-1.7\n1 0 obj",
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60),
        "film.jpg": b"\0\0\0\x20ftypisom" + bytes(60),
        "icon.png": encode(scene(), "ICO"),
        "layers.png": b"8BPS\0\1" + bytes(60),
        "jpeg2000.jpg": encode(scene(), "JPEG2000"),
        "avif.jpg": b"\0\0\0\x20ftypavif" + bytes(60),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    return (
        {name: Content(data, "not_an_image") for name, data in no_images.items()}
        | {name: Content(data, FOREIGN) for name, data in other_formats.items()}
        | {
            "nothing.png": Content(b"", "empty"),
            "nothing.jpg": Content(b"", "empty"),
            "no-width.png": Content(png(0, 24, b""), DAMAGED),
            "no-palette.png": Content(no_palette, DAMAGED),
            "bad-header-crc.png": Content(image[:29] + bytes([image[29] ^ 1]) + image[30:], DAMAGED),
            "signature-only.png": Content(image[:8], DAMAGED),
            "no-quantisation.jpg": Content(jpeg.replace(b"\xff\xdb", b"\xff\xee"), DAMAGED),
            "arithmetic-by-name.jpg": Content(jpeg.replace(b"\xff\xc0", b"\xff\xcb"), DAMAGED),
        }
    )


def _cut():
    """Files of which the end is missing, at a quarter, a half and nine tenths: mostly pixels, so that they tell."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    _, others = frames()
    whole = {
        "jpg": encode(noise, "JPEG", quality=95),
        "png": encode(noise, "PNG"),
        "gif": encode(noise.quantize(256), "GIF"),
        "webp": encode(noise, "WEBP", lossless=True),
        "tif": encode(noise, "TIFF"),
        "bmp": encode(noise, "BMP"),
        "ppm": encode(noise, "PPM"),
    }
    found = {
        f"cut-{tenths}.{kind}": Content(data[: len(data) * tenths // 20], CUT)
        for kind, data in whole.items()
        for tenths in (5, 10, 18)
    }
    # The first frame is whole, and only the first is shown.
    animation = encode(noise, "GIF", save_all=True, append_images=[other.resize((48, 48)) for other in others])
    return found | {"cut-second-frame.gif": Content(animation[:-50])}


def contents():
    """{file name: Content} of all of the above."""
    return _good() | _bombs() | _broken() | _cut()


# -- a folder ----------------------------------------------------------------------------------------------------

NAMES = (
    *("with space.png", " leading and trailing .png", "hash#1.png", "query?a=b&c.png", "percent%20.png", "100%.png"),
    *("single'quote.png", 'double"quote.png', "line\nbreak.png", "tab\t.png", "emoji😀.png", "-rf.png", "a..png"),
    *("back\\slash.png", "UPPER.PNG", "semi;colon.png", "star*.png", "braces{a,b}.png", "brackets[0-9].png"),
    *("equals=1.png", "plus+.png", "at@.png", "colon:.png", "$HOME.png", "`id`.png", "pipe|.png", "ends.png.jpg"),
    *("caf\u00e9.png", "cafe\u0301.png", "\u202egnp.png", "中文.png", "s3:%2F%2Fbucket.png", "\x7f.png", "\ufeff.png"),
    "n" * 251 + ".png",
)


def write(folder):
    """Make the whole corpus in `folder`; returns what a run must make of it."""
    found = {}
    for name, content in contents().items():
        (folder / name).write_bytes(content.data)
        found[name] = "zero_feature" if content.flat else content.outcome
    picture = encode(scene(), "PNG")
    for name in NAMES:
        (folder / name).write_bytes(picture)
        found[name] = "ok"
    left_out = _links_and_pipes(folder, picture, found)
    return Corpus(found, left_out)


def _links_and_pipes(folder, picture, found):
    """What only a file system has. Adds to `found`; returns what a listing leaves out."""
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(picture)
    (folder / "folder.jpg" / "empty").mkdir()
    (folder / "copy.png").write_bytes(picture)
    (folder / "link.png").symlink_to("copy.png")
    (folder / "linked").symlink_to("folder.jpg")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "folder.jpg" / "around").symlink_to("..")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / ".hidden.png").write_bytes(picture)
    (folder / "..png").write_bytes(picture)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "inside.png").write_bytes(picture)
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb") as file:
        file.write(picture)
    found[r"\xff\xfe.png"] = "ok"
    (folder / "forbidden.png").write_bytes(picture)
    (folder / "forbidden.png").chmod(0)
    readable = os.access(folder / "forbidden.png", os.R_OK, effective_ids=True)  # by root
    found |= dict.fromkeys(("folder.jpg/inside.png", "linked/inside.png", "copy.png", "link.png"), "ok")
    found |= {"forbidden.png": "ok" if readable else "unreadable", "dangling.png": "unreadable"}
    found |= {"loop.png": "unreadable"}
    return {"hidden": 3, "other files": 1, "link loops": 2}
