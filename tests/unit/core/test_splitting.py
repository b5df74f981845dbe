"""A class in parts: by the heads of the run where they divide it alike, else by a training on its images."""

import numpy as np
import pytest
import torch

from icce_ray.core.splitting import split
from icce_ray.search.partition import PARTITIONERS

RANDOM = np.random.default_rng(0)
#: The part of each image, the larger one 0.
TRUTH = np.repeat([0, 1], [40, 24])[RANDOM.permutation(64)]
NOISE = RANDOM.integers(0, 2, (64, 5)).astype(np.int32)


def test_heads_that_divide_the_class_alike_are_asked_only():
    votes = np.where(NOISE[:, :4] * (RANDOM.random((64, 4)) < 0.1), 1 - TRUTH[:, None], TRUTH[:, None])
    found = split(votes.astype(np.int32), pytest.fail, 2, seed=3, partitioners=PARTITIONERS)
    assert (found.part == TRUTH).mean() > 0.95
    assert found.agreement.min() >= 0.5


@pytest.mark.parametrize("votes", [NOISE, 0 * NOISE], ids=["each in its own way", "not at all"])
def test_where_heads_do_not_the_images_themselves_are_learned_from(votes):
    centres = RANDOM.normal(size=(2, 12))
    features = torch.from_numpy((centres[TRUTH] + 0.2 * RANDOM.normal(size=(64, 12))).astype(np.float16))
    first, again = (split(votes, lambda: features, 2, seed=3, partitioners=PARTITIONERS) for _ in range(2))
    assert np.array_equal(first.part, TRUTH)
    assert np.array_equal(first.part, again.part)
