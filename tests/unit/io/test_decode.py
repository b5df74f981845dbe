"""Decoding: pictures as a viewer shows them, every kind of bad file a Reject with a reason, nothing leaks."""

import io
import pickle
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hostile import MAX_PIXELS, contents, png, scans, squeezed, tiff
from pictures import encode, scene
from PIL import Image, ImageFile

from icce_ray.io import decode as decoding
from icce_ray.io import rendering
from icce_ray.io.decode import REASONS, Reject, decode, thumbnail
from tests.failures import fails


def squash(data, size=8, max_pixels=10**6):
    return decode(data, size=size, resize="squash", max_pixels=max_pixels)


def reason(data, **options):
    with pytest.raises(Reject) as caught:
        squash(data, **options)
    assert caught.value.reason in REASONS
    return caught.value.reason


def blocks(height=32, width=32):
    """Four flat quarters: red, green / blue, white. They survive any resize and lossy format."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    image[height // 2 :, width // 2 :] = (255, 255, 255)
    return image


def corners(picture):
    return [tuple(int(v) // 128 for v in picture[y, x]) for y in (1, -2) for x in (1, -2)]


UPRIGHT = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
SAMPLES = {
    "jpeg": encode(blocks(), "JPEG"),
    "progressive": encode(blocks(), "JPEG", progressive=True),
    "cmyk": encode(Image.fromarray(blocks()).convert("CMYK"), "JPEG"),
    "png": encode(blocks(), "PNG"),
    "palette": encode(Image.fromarray(blocks()).quantize(8), "PNG"),
    "webp": encode(blocks(), "WEBP"),
    "lossless": encode(blocks(), "WEBP", lossless=True),
    "gif": encode(blocks(), "GIF"),
    "bmp": encode(blocks(), "BMP"),
    "ppm": encode(blocks(), "PPM"),
    "tiff": encode(blocks(), "TIFF"),
    "tiff-lzw": encode(blocks(), "TIFF", compression="tiff_lzw"),
    "tiff-jpeg": encode(blocks(), "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_every_format_gives_the_picture(kind, resize):
    picture = decode(SAMPLES[kind], size=8, resize=resize, max_pixels=10**6)
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    assert corners(picture) == UPRIGHT


def test_squash_is_pillows_bicubic():
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((14, 14), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squash(encode(image, "PNG"), 14), np.asarray(expected))


@pytest.mark.parametrize("shape", [(375, 500, 3), (224, 900, 3), (1200, 900, 3), (448, 448, 3), (375, 500)])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_large_results_are_pillows_bicubic_to_one_level(shape, kind):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(noise)
    if kind == "smooth":
        image = image.reduce(16).resize(image.size, Image.Resampling.BICUBIC)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC).convert("RGB"))
    got = squash(encode(image, "PNG"), 224, 2 * 10**6)
    assert got.flags.c_contiguous
    assert got.flags.writeable
    difference = abs(got.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("shape", [(1400, 50, 3), (50, 1400, 3), (100, 130, 3)])
def test_pictures_that_grow_are_pillows_own(shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(squash(encode(image, "PNG"), 224), expected)


def test_small_results_need_no_torch():
    program = (
        "import sys; from icce_ray.io.decode import decode; "
        "decode(sys.stdin.buffer.read(), size=32, resize='squash', max_pixels=10**6); print('torch' in sys.modules)"
    )
    picture = encode(blocks(200, 200), "PNG")
    run = subprocess.run([sys.executable, "-c", program], input=picture, capture_output=True, check=True)
    assert run.stdout.split() == [b"False"]


@pytest.mark.parametrize("shape", [(300, 512, 3), (700, 256, 3), (224, 224, 3), (100, 130, 3)])
def test_crop_is_resize_then_centre_crop(shape):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    new = [int(256 * side / min(image.size)) for side in image.size]
    left, top = (round((side - 224) / 2) for side in new)
    expected = image.resize(new, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    got = decode(encode(image, "PNG"), size=224, resize="crop", max_pixels=10**6)
    assert abs(got.astype(int) - np.asarray(expected)).max() <= 1


def test_a_long_strip_stays_cheap_to_crop():
    strip = encode(np.full((1, 60_000), 7, np.uint8), "PNG")
    assert (decode(strip, size=224, resize="crop", max_pixels=10**6) == 7).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, kind):
    # What a camera stores so that the named orientation brings the blocks upright again.
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]
    stored = Image.fromarray(blocks(48, 32))
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert corners(squash(encode(stored, kind, exif=exif))) == UPRIGHT


def test_grey_of_all_depths():
    ramp = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(4, 4)
    sixteen = ramp.astype(np.uint16) * 257
    for data in (
        encode(ramp, "PNG"),
        encode(sixteen, "PNG"),
        encode(sixteen, "TIFF"),
        encode(sixteen.astype(">u2"), "TIFF"),
        encode(sixteen.astype(np.int32), "TIFF"),
        encode(Image.fromarray(sixteen.astype(np.int32)), "PPM"),
        encode((ramp / 255).astype(np.float32), "TIFF"),
        encode(ramp.astype(np.float32), "TIFF"),
        encode(ramp.astype(np.float32) * 40 - 7, "TIFF"),
    ):
        picture = squash(data, 4)
        np.testing.assert_array_equal(picture, np.repeat(ramp[:, :, None], 3, axis=2))


def test_float_grey_without_range_or_with_nan():
    assert (squash(encode(np.full((4, 4), -3.0, np.float32), "TIFF")) == 0).all()
    nan = np.array([[np.nan, np.inf], [0, 1]], np.float32)
    assert squash(encode(nan, "TIFF"), 2)[:, :, 0].tolist() == [[0, 0], [0, 255]]


def test_bilevel():
    image = Image.fromarray(blocks()[:, :, 1] > 0)
    assert [c[0] for c in corners(squash(encode(image, "PNG")))] == [0, 1, 0, 1]
    assert [c[0] for c in corners(squash(encode(image, "PPM")))] == [0, 1, 0, 1]


def test_bombs_are_rejected_from_their_header():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert reason(SAMPLES["png"], max_pixels=32 * 32 - 1) == "too_many_pixels"
    assert squash(SAMPLES["png"], max_pixels=32 * 32).shape == (8, 8, 3)
    for side in (1001, 12_000, 60_000):  # above our limit, Pillow's warning, Pillow's error
        assert reason(png(side, side, b"")) == "too_many_pixels"
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_reject_says_what_and_pickles():
    with fails(Reject, "too_many_pixels", "1001 x 1001", "1000000") as caught:
        squash(png(1001, 1001, b""))
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301, our own bytes
    assert (copy.reason, copy.detail) == (caught.value.reason, caught.value.detail)


def test_bad_arguments():
    with fails(ValueError, "at least 1"):
        squash(SAMPLES["png"], size=0)
    with fails(ValueError, "'stretch'; use one of"):
        decode(SAMPLES["png"], size=8, resize="stretch", max_pixels=10)


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    data = [SAMPLES["gif"], encode(blocks(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")] * 10
    threads = [threading.Thread(target=lambda: [squash(item) for item in data]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(60, 120, (16, 32, 3)), (120, 60, (32, 16, 3)), (9, 5, (9, 5, 3)), (1, 500, (1, 32, 3))],
)
def test_a_thumbnail_keeps_the_aspect_ratio_and_never_grows(height, width, shape):
    small = thumbnail(encode(scene(height, width), "PNG"), longest=32, max_pixels=10**6)
    assert np.asarray(Image.open(io.BytesIO(small))).shape == shape


def test_a_thumbnail_is_what_a_viewer_shows_without_what_came_along():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif[0x010E] = "where I live"
    turned = encode(scene(40, 80), "JPEG", exif=exif, quality=95)
    small = thumbnail(turned, longest=80, max_pixels=10**6)
    picture = Image.open(io.BytesIO(small))
    assert abs(np.asarray(picture).astype(int) - np.rot90(scene(40, 80), -1)).mean() < 8
    assert (picture.format, b"where I live" in small, dict(picture.getexif())) == ("WEBP", False, {})
    with fails(Reject, "too_many_pixels"):
        thumbnail(turned, longest=64, max_pixels=3199)
    with fails(ValueError, "longest 0"):
        thumbnail(turned, longest=0, max_pixels=10**6)


# -- hostile files -------------------------------------------------------------------------------------------------

CONTENTS = contents()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_hostile_file_ends_as_it_must(name):
    content = CONTENTS[name]
    try:
        picture = decode(content.data, size=32, resize="squash", max_pixels=MAX_PIXELS)
    except Reject as reject:
        assert (reject.reason, bool(reject.detail)) == (content.outcome, True)  # noqa: PT017
    else:
        assert content.outcome == "ok"
        assert (picture == picture[0, 0]).all() == content.flat


def test_a_tile_is_limited_like_the_picture():
    packed = squeezed(1000 * 1000)
    tiles = {256: 16, 257: 16, 322: 1000, 323: 1000, 324: None, 325: len(packed)}
    assert (squash(tiff(tiles, packed)) == 0).all()
    assert reason(tiff(tiles, packed), max_pixels=1000 * 1000 - 1) == "too_many_pixels"


def test_scans_are_limited():
    assert squash(scans(200)).shape == (8, 8, 3)
    assert reason(scans(300)) == "decode_error"
    film = b"\xff\xda" * 1000  # behind the picture, as telephones keep them, it is not counted
    assert squash(SAMPLES["progressive"] + film).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16", "I", "F"])
def test_bands_give_what_the_whole_gives(mode, monkeypatch):
    rgba = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    image = Image.fromarray(rgba)
    if mode == "P":
        data = encode(image.convert("RGB").quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))
    elif mode in ("RGBA", "LA"):
        data = encode(image.convert(mode), "PNG")
    else:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        data = encode(rgba[:, :, 0].astype(kind) * 250 - (0 if mode == "I;16" else 99), "TIFF")
    whole = squash(data, 30)
    for pixels in (1, 30, 31, 600, 1199):
        monkeypatch.setattr(rendering, "_BAND_PIXELS", pixels)
        np.testing.assert_array_equal(squash(data, 30), whole)


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 100)
    inside, most = [], []
    real = decoding.rgb

    def slow(image):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return real(image)

    monkeypatch.setattr(decoding, "rgb", slow)
    threads = [threading.Thread(target=squash, args=(SAMPLES["png"],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
