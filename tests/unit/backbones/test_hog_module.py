"""HOG in operations of torch against scikit-image's."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from icce_ray.backbones import describe_backbone, load_backbone, load_module


def pictures(size):
    """Digits, a photograph, noise, one colour: uint8 [n, size, size, 3]."""
    digits = [Image.fromarray((image * 15.9375).astype(np.uint8)) for image in load_digits().images[:20]]
    images = [*digits, Image.fromarray(load_sample_images().images[0])]
    drawn = [np.array(image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")) for image in images]
    noise = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    return np.concatenate([np.stack(drawn), noise, np.full((1, size, size, 3), (200, 10, 10), np.uint8)])


@pytest.mark.parametrize("features", ["hog", "hog+color"])
@pytest.mark.parametrize("size", [24, 28, 32, 44])
def test_the_features_are_scikit_images(features, size):
    info, pixels = describe_backbone("hog", features, image_size=size), pictures(size)
    found = load_module(info)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, load_backbone(info).embed(pixels).main, rtol=0, atol=5e-6)
