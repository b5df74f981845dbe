"""What is measured of a picture while it is decoded: of every format, whatever its size, and nothing else changes."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from icce_ray.io.decode import decode_and_measure, decode_each
from icce_ray.io.rendering import Resizing
from tests.pictures import encode, files, scene

LARGE, SMALL = (224, Resizing.named("crop", 224)), (32, Resizing.named("squash", 32))


def figures(data, wanted=(LARGE,)):
    return decode_and_measure(data, wanted=wanted, max_pixels=10**8)[1]


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(load_sample_images().images[0])


@pytest.mark.parametrize("name", files())
def test_every_format_is_measured_and_its_squares_stay_as_they_are(name):
    data = files()[name]
    wanted = [(24, Resizing.named("squash", 24)), SMALL]
    squares, found = decode_and_measure(data, wanted=wanted, max_pixels=10**6)
    for square, alone in zip(squares, decode_each(data, wanted=wanted, max_pixels=10**6), strict=True):
        np.testing.assert_array_equal(square, alone)
    assert found.digest == hashlib.blake2b(data, digest_size=16).digest()
    if name not in ("plain.ppm", "F.pnm"):
        assert (found.width, found.height) == (24, 24)
        assert found.contrast > 0.4
    assert 0 <= found.brightness - found.contrast / 2 <= found.brightness + found.contrast / 2 <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_width_and_height_are_of_the_whole_picture_as_it_is_shown(kind):
    exif = Image.Exif()
    for orientation, shown in ((1, (900, 601)), (3, (900, 601)), (6, (601, 900)), (5, (601, 900))):
        exif[0x0112] = orientation
        found = figures(encode(scene(601, 900), kind, exif=exif), [SMALL])
        assert (found.width, found.height) == shown


@pytest.mark.parametrize("level", [0, 10, 128, 255])
def test_a_flat_picture_has_no_contrast(level):
    found = figures(encode(np.full((50, 70, 3), level, np.uint8), "PNG"))
    assert (found.brightness, found.contrast, found.sharpness) == (pytest.approx(level / 255), 0, 1)


@pytest.mark.parametrize("width", [160, 320, 640, 1900])
def test_figures_of_a_picture_hardly_change_with_its_size_and_the_backbone(photograph, width):
    """A reduced JPEG is measured for a small backbone, the whole one for a large."""
    small = photograph.resize((width, round(width * photograph.height / photograph.width)), Image.Resampling.LANCZOS)
    for wanted in (LARGE, SMALL):
        found, blurred = (
            figures(encode(image, "JPEG", quality=92), [wanted])
            for image in (small, small.filter(ImageFilter.GaussianBlur(width / 100)))
        )
        assert found[3:5] == pytest.approx(blurred[3:5], abs=0.06)
        assert found.sharpness > 0.55 > 0.45 > blurred.sharpness


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (700, 5), (11, 200), (24, 24)])
def test_pictures_too_small_to_tell_count_as_sharp(size):
    grey = np.random.default_rng(0).integers(0, 255, size[::-1], np.uint8)
    assert figures(encode(grey, "PNG"), [SMALL]).sharpness == 1


def test_what_is_measured_does_not_read_a_large_picture_point_by_point(monkeypatch):
    seen = []
    monkeypatch.setattr("icce_ray.io.quality.sharpness", lambda grey: seen.append(grey.shape) or 1.0)
    for shape in ((3000, 2000), (90, 5000), (128, 128), (30, 20)):
        figures(encode(scene(*shape), "PNG"))
    assert max(height * width for height, width in seen) <= 2 * 128**2
    assert seen[2:] == [(128, 128), (30, 20)]
