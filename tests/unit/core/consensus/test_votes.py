"""Votes against derivatives and loops; monotone ANMI; unused labels; shards against the whole."""

import numpy as np
import pytest

from icce_ray.core.consensus import (
    Split,
    agreement,
    apply_split,
    collapse,
    head_map,
    improves,
    refine,
    split_for_unused,
    vote,
    vote_weights,
)
from icce_ray.core.consensus.votes import use_all
from icce_ray.core.metrics import accuracy, anmi, head_contingency


def problem(n=80, n_heads=5, k=3, seed=0, flip=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    heads = [np.where(rng.random(n) < flip, rng.integers(0, k, n), rng.permutation(k)[truth]) for _ in range(n_heads)]
    return np.stack(heads, axis=1), truth


def test_map_and_agreement_are_those_of_plain_loops():
    labels, label = problem()
    tables = head_contingency(labels, label, [4] * 5, 3)  # cluster 3 of every head is empty
    mapping = head_map(tables)
    assert (mapping[:, 3] == -1).all()
    for h in range(5):
        for a in range(3):
            assert mapping[h, a] == np.bincount(label[labels[:, h] == a], minlength=3).argmax()
    expected = [np.mean([mapping[h, row[h]] == k for h in range(5)]) for row, k in zip(labels, label, strict=True)]
    found = agreement(labels, label, mapping)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_votes_are_the_derivative_of_anmi():
    labels, label = problem(n=4000)
    tables = head_contingency(labels, label, [3] * 5, 3)
    weights, step = vote_weights(tables), 1e-4
    for image in range(10):
        row, old = labels[image], label[image]
        for new in set(range(3)) - {int(old)}:
            # Move a part of an image: ANMI is defined for fractional counts too.
            moved = tables.astype(float)
            moved[np.arange(5), row, old] -= step
            moved[np.arange(5), row, new] += step
            slope = (anmi(moved) - anmi(tables)) * 5 * len(label) / step
            gain = weights[np.arange(5), row, new].sum() - weights[np.arange(5), row, old].sum()
            assert gain == pytest.approx(slope, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_a_vote_over_shards_is_the_vote_of_the_whole(shards, monkeypatch):
    labels, label = problem()
    tables = sum(
        head_contingency(x, y, [3] * 5, 3)
        for x, y in zip(np.array_split(labels, shards), np.array_split(label, shards), strict=True)
    )
    weights = vote_weights(tables)
    whole = vote(labels, weights)
    sums = np.stack([weights[np.arange(5), row].sum(axis=0) for row in labels])
    np.testing.assert_array_equal(whole, sums.argmax(axis=1))
    monkeypatch.setattr("icce_ray.core.consensus.votes._BLOCK_ENTRIES", 60)
    np.testing.assert_array_equal(np.concatenate([vote(p, weights) for p in np.array_split(labels, shards)]), whole)


@pytest.mark.parametrize("seed", range(4))
def test_refining_never_lowers_anmi_and_recovers_a_damaged_start(seed):
    labels, truth = problem(n=400, n_heads=10, seed=seed)
    rows, rng = collapse(labels), np.random.default_rng(seed)
    start = truth.copy()
    start[rng.random(400) < 0.4] = 0
    start = start[np.unique(rows.index, return_index=True)[1]].astype(np.int32)
    label, votes = refine(rows, start, 3)
    tables = [head_contingency(rows.labels, x, rows.head_sizes, 3, rows.counts) for x in (start, label)]
    assert anmi(tables[1]) > anmi(tables[0])
    assert votes > 0
    assert accuracy(label[rows.index], truth) > 0.95


def test_refining_stops_at_the_number_of_votes_allowed():
    rows = collapse(problem(n=400, n_heads=10)[0])
    start = np.random.default_rng(0).integers(0, 3, rows.counts.size).astype(np.int32)
    label, votes = refine(rows, start, 3, 1)
    assert votes == 1
    assert refine(rows, start, 3, 0)[1] == 0
    assert label.shape == start.shape


def test_a_vote_that_empties_a_label_or_gains_nothing_is_not_kept():
    labels, label = problem()
    tables = head_contingency(labels, label, [3] * 5, 3)
    assert not improves(tables, tables)
    merged = head_contingency(labels, np.minimum(label, 1), [3] * 5, 3)
    assert not improves(merged, tables)


def test_one_consensus_label_or_one_head_cluster_has_no_votes():
    labels, label = problem()
    assert not vote_weights(head_contingency(labels, 0 * label, [3] * 5, 3)).any()
    labels[:, 0] = 0
    weights = vote_weights(head_contingency(labels, label, [3] * 5, 3))
    assert not weights[0].any()
    assert np.isfinite(weights).all()


def test_an_unused_label_takes_the_most_even_split():
    labels = np.array([[0, 0]] * 3 + [[0, 1]] * 2 + [[1, 1]])
    label = np.zeros(6, dtype=np.int32)
    split = split_for_unused(head_contingency(labels, label, [2, 2], 2))
    assert split == Split(head=1, cluster=0, label=0, unused=1)
    np.testing.assert_array_equal(apply_split(labels, label, split), [1, 1, 1, 0, 0, 0])


def test_all_labels_are_used_when_there_is_something_to_split():
    rows = collapse(problem()[0])
    label = use_all(rows, np.zeros(rows.counts.size, dtype=np.int32), 7)
    assert np.unique(label).size == 7
    two = collapse(np.repeat([[0, 0], [1, 1]], 5, axis=0))
    assert np.unique(use_all(two, np.zeros(2, dtype=np.int32), 3)).size == 2
