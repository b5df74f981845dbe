"""HOG: shapes, shares of its parts, and features good enough for scikit-learn's digits."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from icce_ray.backbones import BackboneError, describe_backbone, load_backbone
from tests.failures import fails


def pixels(n=5, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("features", "dim", "layout"),
    [
        ("hog", 324, {"hog": (0, 324)}),
        ("hog+color", 372, {"hog": (0, 324), "color": (324, 372)}),
    ],
)
@pytest.mark.parametrize("size", [None, 24, 48])
def test_description_and_features_agree(features, dim, layout, size):
    info = describe_backbone("hog", features, image_size=size)
    backbone = load_backbone(info, device="cuda")
    assert describe_backbone("hog").features == "hog+color", "the richer one by default"
    assert (info.dim, info.layout, info.block_dim, info.image_size) == (dim, layout, 0, size or 32)
    assert backbone.info == info
    result = backbone.embed(pixels(size=backbone.info.image_size))
    assert result.main.shape == (5, dim)
    assert result.main.dtype == np.float32
    assert result.cls_blocks is None
    assert backbone.embed(pixels(0, backbone.info.image_size)).main.shape == (0, dim)


def test_parts_have_their_shares():
    main = load_backbone(describe_backbone("hog", "hog+color")).embed(pixels()).main
    np.testing.assert_allclose((main[:, :324] ** 2).sum(1), 0.8, rtol=1e-5)
    np.testing.assert_allclose((main[:, 324:] ** 2).sum(1), 0.2, rtol=1e-5)


def test_hog_ignores_colour_and_color_sees_it():
    red, green = np.zeros((2, 1, 32, 32, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    backbone = load_backbone(describe_backbone("hog", "hog+color"))
    both = backbone.embed(np.concatenate([red, green])).main
    assert (both[:, :324] == 0).all()  # no gradients: the part stays zero instead of becoming NaN
    assert both[0, 324:] @ both[1, 324:] < 0.5 * 0.2
    assert (load_backbone(describe_backbone("hog", "hog")).embed(red).main == 0).all()


def test_rows_do_not_depend_on_the_batch():
    backbone = load_backbone(describe_backbone("hog", "hog+color"))
    whole = backbone.embed(pixels()).main
    singles = np.concatenate([backbone.embed(pixels()[i : i + 1]).main for i in range(5)])
    np.testing.assert_array_equal(whole, singles)


def test_digits_by_their_neighbours():
    digits = load_digits()
    images = [Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)) for image in digits.images]
    images = [image.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for image in images]
    z = load_backbone(describe_backbone("hog", "hog")).embed(np.stack([np.asarray(image) for image in images])).main
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    similarities = z @ z.T
    np.fill_diagonal(similarities, -1)
    nearest = np.argpartition(-similarities, 20, axis=1)[:, :20]
    votes = (digits.target[nearest][:, :, None] == np.arange(10)).sum(1)
    assert (votes.argmax(1) == digits.target).mean() > 0.98


def test_errors_before_work():
    with fails(BackboneError, "'cls' do not exist for the backbone 'hog'; use one of ['hog+color', 'hog'"):
        describe_backbone("hog", "cls")
    with fails(BackboneError, "n_last_blocks is 4"):
        describe_backbone("hog", "hog", n_last_blocks=4)
    for size in (20, 33):
        with fails(BackboneError, f"image_size {size}"):
            describe_backbone("hog", "hog", image_size=size)


@pytest.mark.parametrize("bad", [pixels()[0], pixels(size=16), pixels().astype(np.float32), pixels()[..., :1]])
def test_wrong_pixels(bad):
    with fails(ValueError, "takes uint8 [B, 32, 32, 3]"):
        load_backbone(describe_backbone("hog", "hog")).embed(bad)
