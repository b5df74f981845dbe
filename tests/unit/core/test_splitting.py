"""A class in parts: two groups that the images form are found, and the same seed finds the same."""

import numpy as np
import torch

from icce_ray.core.splitting import split
from icce_ray.search.partition import PARTITIONERS


def test_two_groups_are_two_parts_the_larger_first():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], [40, 24])[random.permutation(64)]
    centres = random.normal(size=(2, 12))
    features = torch.from_numpy((centres[truth] + 0.2 * random.normal(size=(64, 12))).astype(np.float16))
    votes = np.stack([truth, random.integers(0, 2, 64)], axis=1).astype(np.int32)
    first, again = (split(features, 2, seed=3, partitioners=PARTITIONERS, votes=votes) for _ in range(2))
    assert np.array_equal(first.part, truth)
    assert np.array_equal(first.part, again.part)
    assert first.agreement.min() > 0.9
