"""Several feature spaces: the joined one against the mean of cosines, weights of spaces whose worth is known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from icce_ray.core.spaces import excess, heads_of, join, weights

CLASSES = torch.arange(600) % 6


def grouped(noise, dim=16, seed=0):
    """600 rows of six groups, float32[600, dim]; all noise hides them."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, dim, generator=draw)
    return centres[CLASSES] + noise * torch.randn(600, dim, generator=draw)


def test_a_cosine_of_the_joined_space_is_the_weighted_mean_of_cosines():
    spaces = grouped(1.0, 8)[:5].half(), (100 * grouped(1.0, 3, seed=1))[:5].half()
    for given, shares in ((None, (0.5, 0.5)), ((0.7, 0.3), (0.7, 0.3))):
        joined = torch.from_numpy(join([space.numpy() for space in spaces], given))
        assert joined.dtype == torch.float16
        assert joined.shape == (5, 11)
        for row in range(1, 5):
            parts = [float(cosine_similarity(space[:1].double(), space[row : row + 1].double())) for space in spaces]
            mean = sum(share * part for share, part in zip(shares, parts, strict=True))
            assert float(joined[0].double() @ joined[row].double()) == pytest.approx(mean, abs=2e-3)


def test_a_row_without_direction_and_a_space_of_no_weight_are_zeros_in_the_joined_space():
    zeros, ones = np.zeros((2, 2), np.float16), np.ones((2, 1), np.float16)
    assert join([zeros, ones]).tolist() == [[0, 0, np.float16(0.5**0.5)]] * 2
    assert join([ones, ones], (1.0, 0.0)).tolist() == [[1, 0]] * 2


def test_groups_count_and_neither_noise_nor_a_smooth_cloud_does():
    """A thin cloud has groups for k-means and for neighbours, but no more than any cloud of its shape."""
    draw = torch.Generator().manual_seed(7)
    cloud = torch.randn(600, 16, generator=draw) * torch.logspace(1, -1, 16)
    noise = torch.randn(600, 16, generator=draw)
    for count in (6, None):
        assert excess(grouped(0.3), count, 0) > 0.2
        assert abs(excess(cloud, count, 0)) < 0.05
        assert abs(excess(noise, count, 0)) < 0.05
    assert weights([noise, grouped(0.3)], 6, 0) == (0.0, 1.0)


def test_the_clearer_space_weighs_more_and_equal_ones_the_same():
    clear, faint = weights([grouped(0.5), grouped(1.3, seed=1)], 6, 0)
    assert clear > faint > 0
    assert clear + faint == pytest.approx(1)
    assert weights([grouped(0.5), grouped(0.5)], 6, 0) == (0.5, 0.5)
    assert weights([grouped(0.5), 10 * grouped(0.5).half()], 6, 0) == pytest.approx((0.5, 0.5), abs=0.02)


@pytest.mark.parametrize("rows", [torch.zeros(50, 3), torch.ones(50, 3), grouped(0.3)[:30]])
def test_what_cannot_show_groups_weighs_as_much_as_its_like(rows):
    assert weights([rows, rows, rows], 6, 0) == (1 / 3, 1 / 3, 1 / 3)


def test_the_joined_space_has_half_of_the_heads_and_the_spaces_share_the_others():
    assert heads_of(16, (0.5, 0.5)) == (4, 4, 8)
    assert heads_of(16, (0.9, 0.1)) == (7, 1, 8)
    assert heads_of(16, (1.0, 0.0)) == (8, 0, 8)
    assert heads_of(5, (0.4, 0.3, 0.3)) == (1, 1, 0, 3)
    assert heads_of(1, (0.5, 0.5)) == (0, 0, 1)
    assert all(sum(heads_of(heads, (0.21, 0.33, 0.46))) == heads for heads in range(1, 60))
