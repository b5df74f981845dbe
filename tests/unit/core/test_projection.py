"""The projection against numpy's, and what must not change it."""

import numpy as np
import pytest
import torch

from icce_ray.core.projection import Moments, Projection, sum_moments


@pytest.fixture(scope="module")
def rows():
    """Rows that all point one way, in few directions."""
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(500, 6)) * [9, 7, 5, 3, 2, 1]
    return torch.from_numpy(spread @ generator.normal(size=(6, 40)) + 30).half()


def test_it_is_the_principal_components(rows):
    ours = Projection.of(Moments.of(rows), 4).apply(rows)
    assert ours.dtype == torch.float16
    wide = rows.double().numpy()
    centred = wide - wide.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    theirs = left[:, :4] * values[:4]
    theirs /= np.sqrt(np.square(theirs).mean())
    assert np.allclose(np.abs(ours.double().numpy()), np.abs(theirs), atol=2e-3)
    assert float(ours.double().square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_neither_blocks_nor_neighbouring_rows_change_it(rows):
    whole = Moments.of(rows)
    parts = sum_moments([Moments.of(rows[:123]), Moments.of(rows[123:])])
    one, other = Projection.of(whole, 5), Projection.of(parts, 5)
    assert torch.equal(one.apply(rows), torch.cat([other.apply(rows[:7]), other.apply(rows[7:])]))


def test_the_mean_cosine_is_that_of_random_pairs(rows):
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    assert Moments.of(rows, products=False).mean_cosine == pytest.approx(float((unit @ unit.T).mean()))
    assert Moments.of(rows - rows.float().mean(0)).mean_cosine < 0.02


def test_every_row_has_a_direction_and_a_number():
    same = torch.ones(5, 3)
    projected = Projection.of(Moments.of(same), 2).apply(same)
    assert projected.any(dim=1).all()
    huge = torch.tensor([[1e15, 0.0], [-1e15, 1.0], [0.0, 1e-9], [1.0, 1.0]])
    assert Projection.of(Moments.of(huge), 2).apply(huge).isfinite().all()


def test_more_components_than_dimensions_are_refused(rows):
    with pytest.raises(ValueError, match=r"components = 41.*40"):
        Projection.of(Moments.of(rows), 41)
