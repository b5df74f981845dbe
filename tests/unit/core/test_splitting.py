"""A class in parts: found by a training on its images, whatever the heads of the run say of them."""

import numpy as np
import pytest
import torch

from icce_ray.core.splitting import split
from icce_ray.search.partition import PARTITIONERS

RANDOM = np.random.default_rng(0)
#: The part of each image, the larger one 0.
TRUTH = np.repeat([0, 1], [40, 24])[RANDOM.permutation(64)]
NOISE = RANDOM.integers(0, 2, (64, 3)).astype(np.int32)


@pytest.mark.parametrize("votes", [NOISE, 0 * NOISE, TRUTH[:, None] + 0 * NOISE], ids=["noise", "one", "the parts"])
def test_two_groups_of_images_are_two_parts_the_larger_first(votes):
    centres = RANDOM.normal(size=(2, 12))
    features = torch.from_numpy((centres[TRUTH] + 0.2 * RANDOM.normal(size=(64, 12))).astype(np.float16))
    first, again = (split(features, votes, 2, seed=3, partitioners=PARTITIONERS) for _ in range(2))
    assert np.array_equal(first.part, TRUTH)
    assert np.array_equal(first.part, again.part)
    assert first.agreement.min() > 0.5
