"""The choice among methods: best ANMI, refusals, errors, determinism."""

import functools

import numpy as np
import pytest

from icce_ray.core.consensus import METHODS, ConsensusSizeError, consensus
from icce_ray.core.consensus.clusters import collapse
from icce_ray.core.consensus.ensemble import LocalRows, refine
from icce_ray.core.metrics import head_contingency
from icce_ray.search.partition import PARTITIONERS
from tests.failures import fails
from tests.noisy_heads import anmi, noisy_heads

noisy = functools.partial(noisy_heads, n=300, n_heads=8, k=4)


def score(labels, label, k=4):
    return anmi(head_contingency(labels, label, labels.max(axis=0) + 1, k))


def test_the_best_candidate_is_kept_and_never_made_worse():
    labels, _ = noisy()
    found = consensus(labels, 4, PARTITIONERS)
    assert tuple(found.scores) == METHODS
    assert found.method == max(found.scores, key=lambda m: found.scores[m])
    for method, label in found.candidates.items():
        assert label.dtype == np.int32
        assert found.scores[method] == pytest.approx(score(labels, label), abs=1e-12)
    assert found.anmi == pytest.approx(score(labels, found.label), abs=1e-12)
    assert found.anmi >= max(found.scores.values())
    assert found.label.shape == found.agreement.shape == (300,)
    assert found.agreement.dtype == np.float32
    assert found.agreement.min() >= 0
    assert found.agreement.max() <= 1


def test_more_balance_tolerances_never_lower_a_score():
    labels, _ = noisy(seed=1)
    one = consensus(labels, 4, PARTITIONERS, imbalances=(0.05,))
    two = consensus(labels, 4, PARTITIONERS, imbalances=(0.05, 0.5))
    assert all(two.scores[m] >= one.scores[m] for m in METHODS)


def test_the_same_seed_gives_the_same_consensus():
    labels, _ = noisy(seed=2)
    first, second = (consensus(labels, 4, PARTITIONERS, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.label, second.label)
    assert first.scores == second.scores


def test_a_vote_that_empties_a_label_is_not_kept():
    truth = np.arange(30) % 3
    rows = collapse(np.stack([np.minimum(truth, 1), np.minimum(truth, 1), truth], axis=1).astype(np.int32))
    start = rows.labels[:, 2].astype(np.int32)

    class Merging(LocalRows):
        def vote(self, label, n_clusters):
            return np.minimum(label, 1)

    local = Merging(rows)
    assert local.tally(np.minimum(start, 1), 3).anmi > local.tally(start, 3).anmi
    label, counted, votes = refine(local, start, 3, 20)
    assert (votes, counted.used) == (0, 3)
    assert label is start


def test_ties_go_to_the_first_method():
    labels = np.repeat(np.arange(3), 5)[:, None].repeat(4, axis=1)
    assert consensus(labels, 3, PARTITIONERS, methods=("hbgf", "mcla")).method == "hbgf"


def test_a_refusing_method_is_named_and_the_others_go_on(monkeypatch):
    labels, _ = noisy()

    def refusing(*_, **__):
        raise ConsensusSizeError("too large; use less")

    monkeypatch.setattr("icce_ray.core.consensus.ensemble.cspa", refusing)
    found = consensus(labels, 4, PARTITIONERS)
    assert found.refused == {"cspa": "too large; use less"}
    assert "cspa" not in found.scores
    with fails(ConsensusSizeError, "every method", "too large"):
        consensus(labels, 4, PARTITIONERS, methods=("cspa",))


def test_unknown_methods_and_impossible_sizes_are_errors():
    labels, _ = noisy()
    with fails(ValueError, "at least one of"):
        consensus(labels, 4, PARTITIONERS, methods=("mcla", "vote"))
    with fails(ValueError, "at least one of"):
        consensus(labels, 4, PARTITIONERS, methods=())
    with fails(ConsensusSizeError, "at least 2"):
        consensus(labels, 1, PARTITIONERS)
    with fails(ConsensusSizeError, "300 images", "301"):
        consensus(labels, 301, PARTITIONERS)
