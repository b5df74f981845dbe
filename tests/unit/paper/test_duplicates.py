"""Near-duplicates: what a set with copies is made of, and what they are said to cost."""

import dataclasses

import numpy as np
import pytest
import torch

from icce_ray.core.recipe import Recipe
from icce_ray.core.search import unit_rows
from jobs.paper.duplicates import _cost, duplicates, instead, on_top
from jobs.paper.feature_sets import synthetic
from jobs.paper.measure import Measured
from jobs.paper.studies import ALL, FINAL
from jobs.paper.synthetic import FeatureModel
from jobs.paper.variants import Variant

RECIPE = Recipe(heads=2, hidden=32, bottleneck=16, epochs=3, warmup_epochs=1, batch_size=64, learning_rate=3e-3)


@pytest.fixture(scope="module")
def on():
    found = synthetic(200, model=FeatureModel(n_clusters=5, dim=32, atypical=0.1))
    scaled = 7.0 * found.features  # copies must be as long as their originals
    return dataclasses.replace(
        found, features=scaled, base=Variant(threshold=0.4, k_min=5, recipe=RECIPE, iterations=20)
    )


def originals(on, copies):
    """The row of `on` that each copy is nearest to, and its cosine."""
    cosines = unit_rows(copies) @ unit_rows(on.features).T
    return cosines.max(1)


def test_copies_on_top_are_of_different_images_and_have_their_classes(on):
    found = on_top(on, 0.3, 0)
    assert torch.equal(found.features[:200], on.features)
    nearest, of = originals(on, found.features[200:])
    assert len(of.unique()) == len(of) == 60
    assert 5e-5 < float((1.0 - nearest).mean()) < 2e-4
    assert np.array_equal(found.classes[200:], on.classes[of.numpy()])
    lengths = torch.linalg.vector_norm(found.features[200:], dim=1)
    assert torch.allclose(lengths, torch.full((60,), 7.0), atol=1e-3)


def test_copies_instead_of_images_leave_the_number_as_it_is(on):
    alone, copied = instead(on, 0.3, 0)
    assert (len(alone.features), len(copied.features)) == (140, 200)
    assert torch.equal(copied.features[:140], alone.features)
    _, of = originals(on, alone.features)
    assert len(of.unique()) == 140
    assert np.array_equal(alone.classes, on.classes[of.numpy()])
    nearest, of = originals(alone, copied.features[140:])
    assert float(nearest.min()) > 0.9995
    assert np.array_equal(copied.classes[140:], alone.classes[of.numpy()])


def test_a_seed_draws_its_own_copies_and_always_the_same(on):
    assert torch.equal(on_top(on, 0.3, 1).features, on_top(on, 0.3, 1).features)
    assert not torch.equal(on_top(on, 0.3, 1).features, on_top(on, 0.3, 0).features)


def test_a_cost_is_judged_by_its_mean():
    plain, copied = [{FINAL: 0.90, ALL: 0.80}, {FINAL: 0.92, ALL: 0.80}], [{FINAL: 0.88, ALL: 0.81}] * 2
    assert _cost("copies", copied, plain) == (
        "- copies cost +3.00 +- 1.00 points after self-training (-1.00 +- 0.00 points in all heads): ABOVE the limit "
        "of 1."
    )
    assert _cost("copies", plain, plain).endswith("within the limit of 1.")


def test_four_sets_are_measured_and_kept_apart(on, tmp_path):
    said = []
    measure = Measured(on, tmp_path / "kept", said.append)
    text = duplicates(measure, (0, 1))
    assert len(said) == 2 * 4 * 2
    assert "| no copies | 200 |" in text
    assert "| copies on top | 260 |" in text
    assert "| fewer images, no copies | 140 |" in text
    assert text.count("the limit of 1.") == 3
    assert duplicates(Measured(on, tmp_path / "kept", said.append), (0, 1)) == text
    assert len(said) == 2 * 4 * 2
