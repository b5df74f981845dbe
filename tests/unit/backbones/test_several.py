"""Several backbones as one: the features of each side by side, from squares of each one's own size."""

import numpy as np

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.backbones.several import describe_several
from tests.failures import fails

SMALL, LARGE = describe_backbone("hog", "hog", image_size=24), describe_backbone("hog", "hog+color", image_size=48)


def test_features_are_those_of_each_backbone_alone():
    info = describe_several({"shape": SMALL, "both": LARGE})
    assert (info.dim, info.block_dim, info.input_bytes) == (324 + 372, 0, 3 * 24**2 + 3 * 48**2)
    assert info.layout == {"shape.hog": (0, 324), "both.hog": (324, 648), "both.color": (648, 696)}
    random = np.random.default_rng(0)
    squares = [random.integers(0, 256, (3, one.image_size, one.image_size, 3), dtype=np.uint8) for one in info.models]
    found = load_backbone(info).embed(np.concatenate([square.reshape(3, -1) for square in squares], axis=1))
    alone = [load_backbone(one).embed(square).main for one, square in zip(info.models, squares, strict=True)]
    np.testing.assert_array_equal(found.main, np.concatenate(alone, axis=1))
    assert found.cls_blocks is None
    with fails(ValueError, "uint8 [3, 1728]", str(info.input_bytes)):
        load_backbone(info).embed(squares[0].reshape(3, -1))
