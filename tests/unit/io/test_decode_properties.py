"""Whatever the bytes, decoding gives a picture or a Reject with a reason; and pictures are what a viewer shows."""

import io
import os
import resource
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import SIDE, encode, files, scene, with_alpha
from PIL import Image

from icce_ray.io.decode import REASONS, Reject, decode

FILES = files()
PIXELS = 1_000_000
#: More with ICCE_EXAMPLES, at random instead of the same ones every time.
EXAMPLES = int(os.environ.get("ICCE_EXAMPLES", "0"))
thorough = settings(
    max_examples=EXAMPLES or 1000,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def outcome(data, size=8, resize="squash"):
    """The picture's bytes, or reason and detail; within two seconds of this thread's own time."""
    started = time.thread_time()
    result = _outcome(data, size, resize)
    assert time.thread_time() - started < 2
    return result


def _outcome(data, size, resize):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = decode(data, size=size, resize=resize, max_pixels=PIXELS)
        except Reject as caught:
            reject = caught
        else:
            assert picture.dtype == np.uint8
            assert picture.shape == (size, size, 3)
            return picture.tobytes()
    assert reject.reason in set(REASONS) - {"unreadable", "too_many_bytes"}  # those two are of whoever fetches
    assert len(reject.detail) < 400
    return reject.reason, reject.detail


# -- any bytes -----------------------------------------------------------------------------------------------------

STARTS = sorted({data[:length] for data in FILES.values() for length in (2, 8, 16, 40)})


@thorough
@given(start=st.sampled_from([b"", *STARTS]), rest=st.binary(max_size=400))
def test_random_bytes(start, rest):
    outcome(start + rest)


@st.composite
def damaged(draw):
    """A valid file with one to four faults: bits, extreme numbers, cuts, parts lost, repeated or from another file."""
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 4))):
        if len(data) < 8:
            break
        # Headers hold the surprises.
        place = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([64, 300, len(data)])))))
        kind = draw(st.sampled_from(["flip", "extreme", "cut", "lose", "repeat", "splice", "insert"]))
        length = draw(st.integers(1, 100))
        if kind == "flip":
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "extreme":
            data[place : place + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\1\0"]))
        elif kind == "cut":
            del data[place:]
        elif kind == "lose":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.sampled_from([1, 2, 50]))
        elif kind == "splice":
            other = FILES[draw(st.sampled_from(sorted(FILES)))]
            begin = draw(st.integers(0, len(other) - 1))
            data[place : place + draw(st.sampled_from([0, length]))] = other[begin : begin + length]
        else:
            data[place:place] = draw(st.binary(min_size=1, max_size=40))
    return bytes(data)


@thorough
@given(data=damaged(), resize=st.sampled_from(["squash", "crop"]))
def test_damaged_files(data, resize):
    outcome(data, resize=resize)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=damaged())
def test_the_result_is_the_same_every_time(data):
    assert outcome(data) == outcome(data)


def test_memory_does_not_grow_with_what_headers_announce():
    """Peak of the process over thousands of damaged files: max_pixels allow some 20 MB, announced are up to 2**64."""
    rng = np.random.default_rng(0)
    outcome(FILES["RGB.png"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in FILES.values():
        for place in range(0, min(len(data), 200), 3):
            changed = bytearray(data)
            changed[place : place + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
            outcome(bytes(changed))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    tracemalloc.start()
    for data in FILES.values():
        outcome(data)
    assert tracemalloc.get_traced_memory()[0] < 1_000_000  # nothing is kept
    tracemalloc.stop()


# -- as a viewer shows it: Pillow's conversions written out pixel by pixel -------------------------------------------


def stored(name):
    """Decoded at its own size, int [SIDE, SIDE, 3]: no resizing in between."""
    return decode(FILES[name], size=SIDE, resize="squash", max_pixels=PIXELS).astype(int)


def palette_of(name):
    image = Image.open(io.BytesIO(FILES[name]))
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return np.asarray(image), colours, image.info.get("transparency")


def over_white(colour, alpha):
    """[..., 3] of [..., 3] and alpha [...] of 255."""
    share = np.asarray(alpha)[..., None] / 255
    return share * colour + (1 - share) * 255


def test_palette_is_looked_up():
    index, colours, _ = palette_of("P.png")
    expected = np.array([[colours[index[y, x]] for x in range(SIDE)] for y in range(SIDE)])
    for name in ("P.png", "P.bmp", "P.tif", "P.gif", "interlaced.gif"):
        np.testing.assert_array_equal(stored(name), expected, err_msg=name)


def test_palette_with_alpha_lies_over_white():
    index, colours, alphas = palette_of("P-clear.png")
    alphas = np.frombuffer(alphas, np.uint8)
    expected = np.array(
        [[over_white(colours[index[y, x]], alphas[index[y, x]]) for x in range(SIDE)] for y in range(SIDE)]
    )
    assert abs(stored("P-clear.png") - expected).max() <= 1
    index, colours, clear = palette_of("clear.gif")
    expected = np.where((index == clear)[..., None], 255, colours[index])
    assert (index == clear).any()
    np.testing.assert_array_equal(stored("clear.gif"), expected)


def test_one_clear_colour_lies_over_white():
    rgb = scene()
    expected = np.where((rgb == 0).all(axis=2)[..., None], 255, rgb)
    np.testing.assert_array_equal(stored("RGB-clear.png"), expected)
    grey = np.where(rgb[:, :, :1] == 0, 255, rgb[:, :, :1])
    np.testing.assert_array_equal(stored("L-clear.png"), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("name", ["RGBA.png", "RGBA.tif", "RGBA.bmp", "lossless.webp"])
def test_alpha_lies_over_white(name):
    rgba = np.asarray(with_alpha()).astype(int)
    if name == "RGBA.bmp":  # 32 bits a pixel without an alpha mask: the fourth byte has no meaning
        assert (
            abs(stored(name) - rgba[..., :3]).max() <= 1
            or abs(stored(name) - over_white(rgba[..., :3], rgba[..., 3])).max() <= 1
        )
    else:
        assert abs(stored(name) - over_white(rgba[..., :3], rgba[..., 3])).max() <= 1


def test_grey_with_alpha_lies_over_white():
    grey, alpha = (np.asarray(with_alpha().convert("LA"))[..., channel].astype(int) for channel in (0, 1))
    expected = over_white(np.repeat(grey[..., None], 3, axis=2), alpha)
    assert abs(stored("LA.png") - expected).max() <= 1
    assert abs(stored("LA.tif") - expected).max() <= 1


def test_cmyk_is_ink_on_white():
    inks = np.asarray(Image.fromarray(scene()).convert("CMYK")).astype(int)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert abs(stored("CMYK.tif") - expected).max() <= 1
    assert abs(stored("cmyk.jpg") - expected).mean() < 16  # JPEG's own loss, with the inks inverted by Adobe's rule


@pytest.mark.parametrize("name", ["LAB.tif", "YCbCr.tif"])
def test_other_colour_spaces(name):
    assert abs(stored(name) - scene()).mean() < 4


@pytest.mark.parametrize(
    "name", ["animated.png", "animated.gif", "animated.webp", "pages.tif", "restarts.jpg", "RGB.ppm", "RGB.bmp"]
)
def test_the_first_frame(name):
    lossy = name.endswith((".gif", ".webp", ".jpg"))
    assert abs(stored(name) - scene()).mean() <= (12 if lossy else 0)


# -- JPEGs decoded smaller -----------------------------------------------------------------------------------------


def photograph(height, width, generator):
    """Noise with the spectrum of natural pictures, amplitude falling with the frequency: uint8 [height, width, 3]."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    noise = np.stack([generator.standard_normal((height, width)) for _ in range(3)])
    noise[1:] = 0.7 * noise[0] + 0.5 * noise[1:]  # channels that go together
    made = np.fft.irfft2(np.fft.rfft2(noise) * falling, (height, width))
    made = (made - made.mean()) / made.std() * 50 + 128
    return made.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", [(960, 1280), (1200, 900), (1080, 1920)])
def test_draft_is_within_the_stated_tolerance(shape, resize):
    generator = np.random.default_rng(shape)
    data = encode(photograph(*shape, generator), "JPEG", quality=92)
    full = Image.open(io.BytesIO(data))
    full.load()
    drafted = decode(data, size=224, resize=resize, max_pixels=10**7).astype(int)
    whole = decode(encode(full, "PNG"), size=224, resize=resize, max_pixels=10**7).astype(int)
    difference = abs(drafted - whole)
    assert difference.mean() <= 1.5
    assert difference.max() <= 12
