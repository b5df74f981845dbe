"""What heads count of a labelling against loops; unused labels; heads and shards apart against the whole."""

import functools

import numpy as np
import pytest

from icce_ray.core.consensus.clusters import collapse
from icce_ray.core.consensus.ensemble import LocalRows, use_all
from icce_ray.core.consensus.tally import (
    Split,
    agreeing,
    apply_splits,
    concatenate_tallies,
    splits_for_unused,
    tally,
)
from icce_ray.core.metrics import head_contingency
from tests.noisy_heads import anmi, noisy_heads

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


def test_an_unused_label_takes_the_most_even_split():
    labels = np.array([[0, 0]] * 3 + [[0, 1]] * 2 + [[1, 1]])
    label = np.zeros(6, dtype=np.int32)
    splits = splits_for_unused(tally(head_contingency(labels, label, [2, 2], 2)))
    assert splits == [Split(head=1, cluster=0, label=0, unused=1)]
    np.testing.assert_array_equal(apply_splits(labels, label, splits), [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_the_most_even_first_and_divide_a_label_once(seed):
    labels, label = problem(n=30, seed=seed)
    tables = head_contingency(labels, label, [3] * 5, 6)  # labels 3, 4 and 5 are unused
    sizes = np.bincount(label, minlength=6)
    halves = np.minimum([t.toarray() for t in tables], sizes - np.array([t.toarray() for t in tables]))
    splits = splits_for_unused(tally(tables))
    assert splits[0] == Split(*np.unravel_index(halves.argmax(), halves.shape), 3)
    evenness = [halves[split.head, split.cluster, split.label] for split in splits]
    assert evenness == [halves[:, :, split.label].max() for split in splits] == sorted(evenness, reverse=True)
    assert sorted(split.label for split in splits) == [0, 1, 2]
    assert [split.unused for split in splits] == [3, 4, 5]
    whole = apply_splits(labels, label, splits)
    parts = zip(np.array_split(labels, 3), np.array_split(label, 3), strict=True)
    np.testing.assert_array_equal(np.concatenate([apply_splits(x, y, splits) for x, y in parts]), whole)
    assert (np.bincount(whole, minlength=6) > 0).all()


def test_all_labels_are_used_when_there_is_something_to_split():
    rows = collapse(problem()[0])
    label, found = use_all(LocalRows(rows), np.zeros(rows.counts.size, dtype=np.int32), 7)
    assert np.unique(label).size == found.used == 7
    assert found.anmi == anmi(head_contingency(rows.labels, label, rows.head_sizes, 7, rows.counts))
    two = collapse(np.repeat([[0, 0], [1, 1]], 5, axis=0))
    assert np.unique(use_all(LocalRows(two), np.zeros(2, dtype=np.int32), 3)[0]).size == 2
