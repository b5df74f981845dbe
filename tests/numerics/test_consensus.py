"""What the consensus is for: exact recovery of one clustering, high accuracy from noisy ones, all clusters used."""

import numpy as np
import pytest

from icce_ray.core.consensus import METHODS, consensus
from icce_ray.core.consensus.clusters import head_offsets
from icce_ray.core.consensus.votes import ballots, vote
from icce_ray.core.metrics import accuracy, head_contingency
from icce_ray.search.partition import PARTITIONERS


def classes(rng, n, k, unequal):
    """Labels with every class present; unequal classes differ a hundredfold in size."""
    share = np.geomspace(100, 1, k) if unequal else np.ones(k)
    truth = rng.choice(k, size=n, p=share / share.sum())
    truth[:k] = np.arange(k)
    return truth


def heads(rng, truth, k, n_heads, flip, change="none"):
    """Permuted copies of the truth; `change` merges two clusters and splits another, `flip` relabels at random."""
    columns = []
    for _ in range(n_heads):
        label = rng.permutation(k)[truth]
        if change == "merged and split":
            a, b, c = rng.choice(k, 3, replace=False)
            label[label == a] = b
            label[(label == c) & (rng.random(truth.size) < 0.5)] = a
        flipped = rng.random(truth.size) < flip
        label[flipped] = rng.integers(0, k, flipped.sum())
        columns.append(label)
    return np.stack(columns, axis=1).astype(np.int32)


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("k", [2, 3, 7, 20])
def test_every_method_recovers_one_clustering_exactly(k, unequal):
    rng = np.random.default_rng(k)
    truth = classes(rng, 500, k, unequal)
    found = consensus(heads(rng, truth, k, 5, 0.0), k, PARTITIONERS)
    for method in METHODS:
        assert accuracy(found.candidates[method], truth) == 1.0
        assert found.scores[method] == pytest.approx(1.0)
    assert (found.agreement == 1).all()


@pytest.mark.parametrize("change", ["none", "merged and split"])
@pytest.mark.parametrize("flip", [0.1, 0.3])
@pytest.mark.parametrize("k", [3, 10])
def test_noisy_heads_make_a_good_consensus(k, flip, change):
    rng = np.random.default_rng(0)
    truth = classes(rng, 600, k, unequal=False)
    labels = heads(rng, truth, k, 15, flip, change)
    found = consensus(labels, k, PARTITIONERS)
    best_head = max(accuracy(head, truth) for head in labels.T)
    assert accuracy(found.label, truth) > 0.97 > best_head
    assert np.unique(found.label).size == k
    # An image the heads disagree on is more often wrong: the agreement means something.
    wrong = found.label != np.bincount(found.label * k + truth, minlength=k * k).reshape(k, k).argmax(axis=0)[truth]
    if wrong.any():
        assert found.agreement[wrong].mean() < found.agreement[~wrong].mean()


def test_heads_with_different_numbers_of_clusters():
    rng = np.random.default_rng(1)
    truth = classes(rng, 600, 6, unequal=False)
    labels = heads(rng, truth, 6, 12, 0.1)
    labels[:, :4] //= 2  # four heads see three clusters
    halved = rng.random((600, 4)) < 0.5
    labels[:, 4:8] = labels[:, 4:8] * 2 + halved  # four see twelve
    found = consensus(labels, 6, PARTITIONERS)
    assert accuracy(found.label, truth) > 0.97


def test_every_method_uses_all_clusters_even_of_hopeless_heads():
    labels = np.random.default_rng(2).integers(0, 8, (400, 5))
    found = consensus(labels, 8, PARTITIONERS)
    assert all(np.unique(label).size == 8 for label in found.candidates.values())


@pytest.mark.parametrize("flip", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("largest", [2, 8])
def test_votes_by_the_largest_weights_are_those_of_all_weights(flip, largest, monkeypatch):
    """The weight of every label for every cluster, added for every image: 40 labels, more than are added at once."""
    monkeypatch.setattr("icce_ray.core.consensus.votes._LARGEST", largest)
    rng = np.random.default_rng(3)
    k, n_heads, n = 40, 9, 1500
    truth = classes(rng, n, k, unequal=True)
    labels = heads(rng, truth, k, n_heads, flip, "merged and split")
    label = np.where(rng.random(n) < 0.2, rng.integers(0, k - 1, n), np.minimum(truth, k - 2))  # one label is unused
    cast = ballots(head_contingency(labels, label, [k] * n_heads, k), n_heads)
    offsets, weights = head_offsets([k] * n_heads), cast.gains.toarray()
    sums = np.stack([weights[offsets[:-1] + row].sum(axis=0) for row in labels]) + cast.base
    np.testing.assert_array_equal(vote(labels, cast, offsets), sums.argmax(axis=1))
