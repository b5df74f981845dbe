"""Parts of the stage `neighbors` that need no cluster."""

import numpy as np
import pytest

from icce_ray.stages.neighbors.files import row_numbers


@pytest.mark.parametrize(
    "image_ids",
    [np.arange(7, 40), np.array([3]), np.array([0, 1, 4, 5, 90]), np.array([5, 10**12, 10**12 + 3])],
    ids=["no gap", "one", "few gaps", "a sparse sample"],
)
def test_row_numbers_of_image_ids(image_ids):
    asked = np.random.default_rng(0).choice(image_ids, 100)
    found = row_numbers(image_ids)(asked)
    assert np.array_equal(image_ids[found], asked)
