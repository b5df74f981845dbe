"""What counts as a near-duplicate: pairs that are close for where they lie, in groups that no chain makes."""

import numpy as np
import pytest

from icce_ray.core.duplicates import (
    floored,
    grouped,
    limit_of,
    relative,
    scales,
    witnessed,
)
from icce_ray.core.picture_hash import HASH_BYTES, differing, picture_hash


@pytest.fixture
def random():
    return np.random.default_rng(0)


def hash_array(grey):
    return np.frombuffer(picture_hash(grey), np.uint8)[None]


def test_a_hash_survives_noise_and_brightness_but_not_another_picture(random):
    picture, strange = random.uniform(0, 255, (2, 32, 32))
    kept = hash_array(picture)
    assert kept.shape == (1, HASH_BYTES)
    assert differing(kept, hash_array(picture * 0.8 + 20 + random.normal(0, 3, (32, 32))))[0] < 0.05
    assert differing(kept, hash_array(strange))[0] > 0.3


def test_the_distance_of_a_pair_is_a_share_of_that_of_unrelated_neighbours():
    similarities = np.linspace(0.99, 0.5, 30, dtype=np.float32)
    scale = scales(np.array([0, 30, 35]), np.concatenate([similarities, similarities[:5]]))
    assert scale == pytest.approx([1 - similarities[19], 1 - similarities[4]])
    assert relative(np.array([1.0, 0.8]), np.array([0.4, 0.4]), np.array([0.4, 0.1])) == pytest.approx([0.0, 1.0])
    # A quarter of the bits that tell: a quarter of the distance. Bits of unrelated pictures tell nothing.
    assert witnessed(np.array([0.5, 0.5]), np.array([0.05, 0.4])) == pytest.approx([0.125, 0.5])


def test_more_copies_than_a_list_holds_are_near_all_the_same():
    scale = floored(np.array([0.4] * 9 + [1e-4]))  # its 20th neighbour is a copy as well
    assert relative(np.array([0.99]), scale[-1:], scale[-1:]) == pytest.approx([0.1])


def test_the_limit_lies_far_below_what_images_that_are_no_copies_have(random):
    nearest = np.exp(random.normal(np.log(0.7), 0.2, 5000))
    limit = limit_of(nearest)
    assert 0.1 < limit < nearest.min()
    assert limit_of(np.concatenate([nearest, np.full(20_000, 0.01)])) == pytest.approx(limit)  # most are copies
    assert limit_of(np.zeros(100)) == 0.1


def test_a_group_is_what_lies_about_a_centre_not_a_chain():
    chain = np.array([[one, one + 1] for one in range(9)])
    group = grouped(chain, np.full(9, 0.2), 12, limit=0.2)
    assert np.bincount(group).max() == 3
    assert group[10:].tolist() == [10, 11]
    assert (group <= np.arange(12)).all()
    copies = grouped(chain, np.full(9, 0.01), 12, limit=0.2)  # copies of copies are copies
    assert copies.tolist() == [0] * 10 + [10, 11]
