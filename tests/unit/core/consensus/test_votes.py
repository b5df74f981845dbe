"""Votes against derivatives and loops; sums that are exact; shards and heads apart against the whole."""

import functools

import numpy as np
import pytest

from icce_ray.core.consensus.clusters import collapse, head_offsets
from icce_ray.core.consensus.ensemble import LocalRows, refine
from icce_ray.core.consensus.votes import ballots, concatenate_ballots, vote
from icce_ray.core.metrics import accuracy, entropy, head_contingency
from tests.noisy_heads import anmi, noisy_heads

OFFSETS = head_offsets([3] * 5)


problem = functools.partial(noisy_heads, n=80, n_heads=5, k=3, flip=0.3)


def weights_of(cast):
    """float64[sum K_h, K], what a cluster adds to the base that all images share."""
    return cast.gains.toarray()


def test_votes_are_the_derivative_of_anmi():
    labels, label = problem(n=4000)
    tables, step = head_contingency(labels, label, [3] * 5, 3), 1e-4
    cast = ballots(tables, 5)
    scale = np.sqrt(entropy(np.bincount(label)))  # left out of all votes alike
    for image in range(10):
        row, old = labels[image], label[image]
        sums = weights_of(cast)[OFFSETS[:-1] + row].sum(axis=0) + cast.base
        for new in set(range(3)) - {int(old)}:
            # Move a part of an image: ANMI is defined for fractional counts too.
            moved = np.stack([table.toarray() for table in tables]).astype(float)
            moved[np.arange(5), row, old] -= step
            moved[np.arange(5), row, new] += step
            slope = (anmi(moved) - anmi(tables)) * 5 * len(label) / step
            assert (sums[new] - sums[old]) / scale == pytest.approx(slope, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_a_vote_over_shards_is_the_vote_of_the_whole(shards, monkeypatch):
    labels, label = problem()
    cast = ballots(head_contingency(labels, label, [3] * 5, 3), 5)
    whole = vote(labels, cast, OFFSETS)
    sums = np.stack([weights_of(cast)[OFFSETS[:-1] + row].sum(axis=0) for row in labels]) + cast.base
    np.testing.assert_array_equal(whole, sums.argmax(axis=1))
    monkeypatch.setattr("icce_ray.core.consensus.votes._BLOCK_ENTRIES", 60)
    parts = [vote(part, cast, OFFSETS) for part in np.array_split(labels, shards)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_ballots_of_heads_apart_are_those_of_all():
    labels, label = problem()
    tables = head_contingency(labels, label, [3] * 5, 3)
    whole, apart = ballots(tables, 5), concatenate_ballots([ballots(tables[:2], 5), ballots(tables[2:], 5)])
    np.testing.assert_array_equal(apart.base, whole.base)
    np.testing.assert_array_equal(apart.rest, whole.rest)
    np.testing.assert_array_equal(weights_of(apart), weights_of(whole))
    np.testing.assert_array_equal(apart.largest.toarray(), whole.largest.toarray())


@pytest.mark.parametrize("scale", [1, 10**7])
def test_sums_of_weights_are_exact_in_any_order(scale):
    labels, label = problem(n=400)
    labels[:, 0] = np.arange(400) == 7  # a head with one image apart: the smallest entropy there is
    tables = [table * scale for table in head_contingency(labels, label, [3] * 5, 3)]
    cast, rng = ballots(tables, 5), np.random.default_rng(0)
    for row in labels[:50]:
        weights = weights_of(cast)[OFFSETS[:-1] + row]
        for _ in range(5):
            np.testing.assert_array_equal(weights[rng.permutation(5)].cumsum(axis=0)[-1], weights.sum(axis=0))


@pytest.mark.parametrize("seed", range(4))
def test_refining_never_lowers_anmi_and_recovers_a_damaged_start(seed):
    labels, truth = problem(n=400, n_heads=10, seed=seed)
    rows, rng = collapse(labels), np.random.default_rng(seed)
    start = truth.copy()
    start[rng.random(400) < 0.4] = 0
    start = start[np.unique(rows.index, return_index=True)[1]].astype(np.int32)
    label, found, votes = refine(LocalRows(rows), start, 3, 20)
    tables = [head_contingency(rows.labels, x, rows.head_sizes, 3, rows.counts) for x in (start, label)]
    assert anmi(tables[1]) > anmi(tables[0])
    assert found.anmi == anmi(tables[1])
    assert votes > 0
    assert accuracy(label[rows.index], truth) > 0.95


def test_refining_stops_at_the_number_of_votes_allowed():
    rows = collapse(problem(n=400, n_heads=10)[0])
    start = np.random.default_rng(0).integers(0, 3, rows.counts.size).astype(np.int32)
    label, _, votes = refine(LocalRows(rows), start, 3, 1)
    assert votes == 1
    assert refine(LocalRows(rows), start, 3, 0)[2] == 0
    assert label.shape == start.shape


def test_one_consensus_label_or_one_head_cluster_has_no_votes():
    labels, label = problem()
    cast = ballots(head_contingency(labels, 0 * label, [3] * 5, 3), 5)
    assert not weights_of(cast).any()
    assert not cast.base.any()
    labels[:, 0] = 0
    cast = ballots(head_contingency(labels, label, [3] * 5, 3), 5)
    assert not weights_of(cast)[:3].any()
    assert np.isfinite(weights_of(cast)).all()
