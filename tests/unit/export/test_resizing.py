"""Resizing in operations of torch against what decoding does: Pillow below 128 pixels a side, torch from there on."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from icce_ray.export.resizing import resize
from icce_ray.io.rendering import Resizing, square

#: Height and width: shrinking, growing, one of each, strips, and both orders in which Pillow takes the sides.
SIZES = [(97, 150), (150, 97), (8, 8), (20, 30), (40, 100), (100, 40), (300, 310), (32, 32), (400, 420)]


def picture(height, width):
    photo = load_sample_images().images[0]
    return np.ascontiguousarray(photo[:height, :width])


def both(photo, size, resizing):
    """(what decoding makes, what this does), int[size, size, 3]."""
    found = resize(
        torch.from_numpy(photo)[None],
        size,
        resizing.side or size,
        resizing.mode == "crop",
        resizing.centre == "floor",
        resizing.interpolation == "bicubic",
    )
    return square(Image.fromarray(photo), size, resizing).astype(int), found[0].numpy().astype(int)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", SIZES)
def test_a_small_square_is_pillows(shape, interpolation):
    ours, found = both(picture(*shape), 32, Resizing(interpolation=interpolation))
    np.testing.assert_array_equal(found, ours)


@pytest.mark.parametrize("centre", ["round", "floor"])
@pytest.mark.parametrize("shape", SIZES)
def test_a_crop_is_the_same_part(shape, centre):
    """A part that begins one pixel further differs everywhere; Pillow counts in fractions of the source here."""
    ours, found = both(picture(*shape), 32, Resizing("crop", 37, centre=centre))
    assert np.abs(found - ours).max() <= 1
    assert (found != ours).mean() < 0.01


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_a_large_square_is_torchs_within_two(mode):
    ours, found = both(picture(400, 300), 224, Resizing.named(mode, 224))
    assert np.abs(found - ours).max() <= 2
    assert (found != ours).mean() < 0.01
