"""What heads count of a labelling against loops; unused labels; heads and shards apart against the whole."""

import functools

import numpy as np
import pytest

from icce_ray.core.consensus.clusters import collapse, head_offsets
from icce_ray.core.consensus.rows import LocalRows, use_all
from icce_ray.core.consensus.tally import (
    Split,
    after_split,
    agreeing,
    apply_split,
    concatenate_tallies,
    improves,
    split_for_unused,
    tally,
)
from icce_ray.core.metrics import anmi, head_contingency
from tests.noisy_heads import noisy_heads

problem = functools.partial(noisy_heads, n=80, n_heads=5, k=3, flip=0.3)


def test_map_and_agreement_are_those_of_plain_loops():
    labels, label = problem()
    found = tally(head_contingency(labels, label, [4] * 5, 3))  # cluster 3 of every head is empty
    for h, mapping in enumerate(found.mapping):
        assert mapping[3] == -1
        for a in range(3):
            assert mapping[a] == np.bincount(label[labels[:, h] == a], minlength=3).argmax()
    pairs = zip(labels, label, strict=True)
    expected = [np.sum([found.mapping[h][row[h]] == k for h in range(5)]) for row, k in pairs]
    np.testing.assert_array_equal(agreeing(labels, label, found.mapping), expected)


def test_heads_apart_are_the_tally_of_all():
    labels, label = problem()
    tables = head_contingency(labels, label, [3] * 5, 4)
    whole, apart = tally(tables), concatenate_tallies([tally(tables[:2]), tally(tables[2:])])
    assert whole.anmi == apart.anmi == anmi(tables)
    for name in ("sizes", "split", "split_cluster"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(apart, name))
    assert [m.tolist() for m in whole.mapping] == [m.tolist() for m in apart.mapping]


def test_a_vote_that_empties_a_label_or_gains_nothing_is_not_kept():
    labels, label = problem()
    found = tally(head_contingency(labels, label, [3] * 5, 3))
    assert not improves(found, found)
    assert not improves(tally(head_contingency(labels, np.minimum(label, 1), [3] * 5, 3)), found)
    assert improves(found, tally(head_contingency(labels, np.minimum(label, 1), [3] * 5, 3)))


def test_an_unused_label_takes_the_most_even_split():
    labels = np.array([[0, 0]] * 3 + [[0, 1]] * 2 + [[1, 1]])
    label = np.zeros(6, dtype=np.int32)
    split = split_for_unused(tally(head_contingency(labels, label, [2, 2], 2)))
    assert split == Split(head=1, cluster=0, label=0, unused=1)
    divided, _ = apply_split(labels, label, split, np.array([2, 2]))
    np.testing.assert_array_equal(divided, [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_the_split_chosen_is_the_first_of_the_most_even_of_all(seed):
    labels, label = problem(n=30, seed=seed)
    tables = head_contingency(labels, label, [3] * 5, 4)
    sizes = np.bincount(label, minlength=4)
    halves = np.minimum([t.toarray() for t in tables], sizes - np.array([t.toarray() for t in tables]))
    assert split_for_unused(tally(tables)) == Split(*np.unravel_index(halves.argmax(), halves.shape), 3)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_tally_after_a_split_is_that_of_the_labels_after_it(shards, weighted):
    labels, label = problem(n=200)
    sizes, offsets = np.array([3] * 5), head_offsets([3] * 5)
    counts = np.random.default_rng(0).integers(1, 4, 200) if weighted else None
    found = tally(head_contingency(labels, label, sizes, 6, counts))
    for _ in range(3):
        split = split_for_unused(found)
        rows = np.array_split(np.arange(200), shards)
        parts = [apply_split(labels[r], label[r], split, sizes, None if counts is None else counts[r]) for r in rows]
        label = np.concatenate([part for part, _ in parts])
        found = after_split(found, split, np.sum([columns for _, columns in parts], axis=0), offsets)
        whole = tally(head_contingency(labels, label, sizes, 6, counts))
        np.testing.assert_array_equal(found.sizes, whole.sizes)
        np.testing.assert_array_equal(found.split, whole.split)
        divides = found.split > 0
        np.testing.assert_array_equal(found.split_cluster[divides], whole.split_cluster[divides])


def test_all_labels_are_used_when_there_is_something_to_split():
    rows = collapse(problem()[0])
    label, found = use_all(LocalRows(rows), np.zeros(rows.counts.size, dtype=np.int32), 7)
    assert np.unique(label).size == found.used == 7
    assert found.anmi == anmi(head_contingency(rows.labels, label, rows.head_sizes, 7, rows.counts))
    two = collapse(np.repeat([[0, 0], [1, 1]], 5, axis=0))
    assert np.unique(use_all(LocalRows(two), np.zeros(2, dtype=np.int32), 3)[0]).size == 2
