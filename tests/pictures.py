"""Small valid image files of every format and mode that Pillow can write, as bytes."""

import io

import numpy as np
from PIL import Image, ImageCms

SIDE = 24


def encode(image, kind, **options):
    """A picture, Pillow's or an array, as the bytes of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def scene(height=SIDE, width=SIDE):
    """RGB uint8 [height, width, 3]: ramps in red and green under a bright disc: no symmetry, no flat part."""
    y, x = np.mgrid[0:height, 0:width] / max(1, max(height, width) - 1)
    disc = ((y - 0.3) ** 2 + (x - 0.7) ** 2 < 0.06) * 255.0
    return np.stack([255 * y, 200 * x, disc], axis=2).round().astype(np.uint8)


def grey16(height=SIDE, width=SIDE):
    """uint16 [height, width] from 0 to 65535."""
    return np.linspace(0, 65535, height * width).astype(np.uint16).reshape(height, width)


def with_alpha(height=SIDE, width=SIDE):
    """RGBA: the scene, clear to the left and opaque to the right."""
    alpha = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    return Image.fromarray(np.dstack([scene(height, width), alpha]))


def lab():
    """The scene in mode LAB."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(scene()), *profiles, outputMode="LAB")


def frames():
    """The scene and two other pictures, for animations and documents of several pages."""
    picture = Image.fromarray(scene())
    return picture, [picture.transpose(Image.Transpose.ROTATE_90), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


def files():
    """{file name: bytes} of files that all show a picture."""
    rgb, grey = Image.fromarray(scene()), Image.fromarray(scene()[:, :, 0])
    palette, sixteen = rgb.quantize(16), grey16()
    first, others = frames()
    several = {"save_all": True, "append_images": others}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    found = {
        "rgb.jpg": encode(rgb, "JPEG"),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "exif.jpg": encode(rgb, "JPEG", exif=exif),
        "restarts.jpg": encode(rgb, "JPEG", restart_marker_blocks=1, subsampling=0),
        "1.png": encode(grey.convert("1"), "PNG"),
        "L.png": encode(grey, "PNG"),
        "LA.png": encode(with_alpha().convert("LA"), "PNG"),
        "P.png": encode(palette, "PNG"),
        "P-clear.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "PA.png": encode(with_alpha().quantize(16), "PNG"),
        "L-clear.png": encode(grey, "PNG", transparency=0),
        "RGB.png": encode(rgb, "PNG"),
        "RGB-clear.png": encode(rgb, "PNG", transparency=(0, 0, 0)),
        "RGBA.png": encode(with_alpha(), "PNG"),
        "I;16.png": encode(sixteen, "PNG"),
        "animated.png": encode(first, "PNG", **several),
        "P.gif": encode(palette, "GIF"),
        "clear.gif": encode(palette, "GIF", transparency=3),
        "interlaced.gif": encode(palette, "GIF", interlace=1),
        "animated.gif": encode(first, "GIF", **several),
        "lossy.webp": encode(rgb, "WEBP"),
        "lossless.webp": encode(with_alpha(), "WEBP", lossless=True),
        "animated.webp": encode(first, "WEBP", **several),
        "1.bmp": encode(grey.convert("1"), "BMP"),
        "L.bmp": encode(grey, "BMP"),
        "P.bmp": encode(palette, "BMP"),
        "RGB.bmp": encode(rgb, "BMP"),
        "RGBA.bmp": encode(with_alpha(), "BMP"),
        "1.pbm": encode(grey.convert("1"), "PPM"),
        "L.pgm": encode(grey, "PPM"),
        "I.pgm": encode(Image.fromarray(sixteen.astype(np.int32)), "PPM"),
        "RGB.ppm": encode(rgb, "PPM"),
        "plain.ppm": b"P3 2 2 255\n" + b" ".join(b"%d" % value for value in range(0, 240, 20)),
        "F.pnm": b"Pf\n4 2\n-1.0\n" + np.linspace(0, 1, 8).astype("<f4").tobytes(),
        "1.tif": encode(grey.convert("1"), "TIFF"),
        "L.tif": encode(grey, "TIFF"),
        "LA.tif": encode(with_alpha().convert("LA"), "TIFF"),
        "P.tif": encode(palette, "TIFF"),
        "RGBA.tif": encode(with_alpha(), "TIFF"),
        "CMYK.tif": encode(rgb.convert("CMYK"), "TIFF"),
        "LAB.tif": encode(lab(), "TIFF"),
        "I;16.tif": encode(sixteen, "TIFF"),
        "I;16B.tif": encode(sixteen.astype(">u2"), "TIFF"),
        "I.tif": encode(sixteen.astype(np.int32), "TIFF"),
        "F.tif": encode((sixteen / 65535).astype(np.float32), "TIFF"),
        "YCbCr.tif": encode(rgb.convert("YCbCr"), "TIFF"),
        "pages.tif": encode(first, "TIFF", **several),
    }
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"):
        found[f"{compression}.tif"] = encode(rgb, "TIFF", compression=compression)
    found["group4.tif"] = encode(grey.convert("1"), "TIFF", compression="group4")
    return found
