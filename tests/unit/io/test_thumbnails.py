"""Whole pictures made small."""

import io

import numpy as np
import pytest
from PIL import Image

from icce_ray.io.decode import Reject, decode_whole, thumbnail
from tests.failures import fails
from tests.pictures import encode, scene


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(60, 120, (16, 32, 3)), (120, 60, (32, 16, 3)), (9, 5, (9, 5, 3))]
)
def test_the_aspect_ratio_stays_and_nothing_grows(height, width, shape):
    found = decode_whole(encode(scene(height, width), "PNG"), longest=32, max_pixels=10**6)
    assert found.shape == shape
    assert found.dtype == np.uint8


def test_it_is_the_picture_that_a_viewer_shows():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = encode(scene(40, 80), "JPEG", exif=exif, quality=95)
    found = decode_whole(turned, longest=80, max_pixels=10**6)
    upright = np.rot90(scene(40, 80), -1)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_a_strip_keeps_a_pixel():
    assert decode_whole(encode(scene(1, 500), "PNG"), longest=20, max_pixels=10**6).shape == (1, 20, 3)


def test_webp_without_what_came_along():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    data = thumbnail(encode(scene(100, 100), "JPEG", exif=exif), longest=64, max_pixels=10**6)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("WEBP", (64, 64))
    assert b"where I live" not in data
    assert not picture.getexif()


def test_bad_data_and_bad_arguments():
    with fails(Reject, "too_many_pixels"):
        thumbnail(encode(scene(100, 100), "PNG"), longest=64, max_pixels=9_999)
    with fails(Reject, "not_an_image"):
        thumbnail(b"nothing of the kind", longest=64, max_pixels=10**6)
    with fails(ValueError, "longest 0"):
        decode_whole(b"", longest=0, max_pixels=1)
