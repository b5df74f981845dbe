"""The joined space: the cosine of two images is the mean of their cosines in all spaces, whatever their scales."""

import numpy as np

from icce_ray.core.spaces import join


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_cosines_are_the_mean_of_those_of_the_spaces():
    random = np.random.default_rng(0)
    spaces = [random.standard_normal((20, 7)), 1000 * random.standard_normal((20, 90)), random.random((20, 2))]
    spaces = [space.astype(np.float16) for space in spaces]
    joined = join(spaces)
    assert (joined.dtype, joined.shape) == (np.float16, (20, 99))
    wide = [unit(space.astype(np.float64)) for space in spaces]
    expected = np.mean([space @ space.T for space in wide], axis=0)
    rows = joined.astype(np.float64)
    np.testing.assert_allclose(rows @ rows.T, expected, atol=2e-3)


def test_a_row_does_not_depend_on_the_others_and_zeros_stay_zeros():
    spaces = [np.eye(4, 3, dtype=np.float16), np.ones((4, 2), np.float16)]
    alone = np.concatenate([join([space[row : row + 1] for space in spaces]) for row in range(4)])
    np.testing.assert_array_equal(join(spaces), alone)
    assert not alone[3, :3].any()
