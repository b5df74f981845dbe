"""The scores against scikit-learn, and the head tables against plain loops."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from icce_ray.core.metrics import (
    accuracy,
    confusions,
    contingency,
    head_contingency,
    nmi,
    pair_counts,
    pairwise_nmi,
    scores,
    table_scores,
)
from tests.failures import fails


def labellings(seed, n=200, n_a=5, n_b=7):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, n_a, n)
    return a, np.where(rng.random(n) < 0.4, rng.integers(0, n_b, n), a)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("average", ["geometric", "arithmetic"])
def test_nmi_and_ari_are_scikit_learns(seed, average):
    a, b = labellings(seed)
    table = contingency(a, b, 5, 7)
    assert nmi(table, average) == pytest.approx(normalized_mutual_info_score(a, b, average_method=average), abs=1e-12)
    assert table_scores(table)["ari"] == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def test_nmi_of_each_two_labellings_is_scikit_learns():
    labels = np.random.default_rng(0).integers(0, [2, 5, 9, 1], (200, 4))
    found = pairwise_nmi(labels)
    for one, other in itertools.product(range(4), repeat=2):
        expected = normalized_mutual_info_score(labels[:, one], labels[:, other], average_method="geometric")
        assert found[one, other] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0, 0, 0], [1, 1, 1]),
        ([0, 0, 0], [0, 1, 2]),
        ([0, 1, 2], [0, 0, 0]),
        ([0, 1, 2], [2, 1, 0]),
        ([0, 0, 1, 1], [0, 1, 0, 1]),
        ([0, 0, 1, 1], [1, 1, 0, 0]),
        ([3], [2]),
    ],
)
def test_edge_cases_are_scikit_learns(a, b):
    table = contingency(np.array(a), np.array(b), 4, 4)
    for average in ("geometric", "arithmetic"):
        expected = normalized_mutual_info_score(a, b, average_method=average)
        assert nmi(table, average) == pytest.approx(expected, abs=1e-12)
    assert table_scores(table)["ari"] == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def test_scores_of_the_tables_of_shards_are_scores_of_the_whole():
    a, b = labellings(1)
    shards = zip(np.array_split(a, 7), np.array_split(b, 7), strict=True)
    assert table_scores(sum(contingency(x, y, 9, 8) for x, y in shards)) == pytest.approx(scores(a, b), abs=1e-12)
    with fails(ValueError, "no image"):
        table_scores(np.zeros((3, 2), int))


def test_contingency_counts_pairs_and_adds_over_shards():
    a, b = labellings(0)
    table = contingency(a, b, 5, 7)
    assert table.dtype == np.int64
    assert all(table[i, j] == sum((a == i) & (b == j)) for i in range(5) for j in range(7))
    shards = zip(np.array_split(a, 7), np.array_split(b, 7), strict=True)
    np.testing.assert_array_equal(sum(contingency(x, y, 5, 7) for x, y in shards), table)


def test_accuracy_with_more_clusters_than_classes_and_the_reverse():
    more = np.array([0, 0, 1, 2])
    truth = np.array([0, 0, 0, 1])
    assert accuracy(more, truth) == pytest.approx(0.75)
    assert accuracy(truth, more) == pytest.approx(0.75)


def test_scores_name_the_three():
    a, b = labellings(1)
    found = scores(a, b)
    assert set(found) == {"acc", "nmi", "ari"}
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(a, b))


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_head_tables_are_the_tables_of_each_head_and_add_over_shards(shards):
    rng = np.random.default_rng(3)
    sizes = np.array([3, 5, 2])
    labels = np.stack([rng.integers(0, k, 50) for k in sizes], axis=1).astype(np.int32)
    label = rng.integers(0, 4, 50).astype(np.int32)
    parts = zip(np.array_split(labels, shards), np.array_split(label, shards), strict=True)
    of_shards = [head_contingency(x, y, sizes, 4) for x, y in parts]
    for h, size in enumerate(sizes):
        table = sum(tables[h] for tables in of_shards)
        assert table.shape == (size, 4)
        np.testing.assert_array_equal(table.toarray(), contingency(labels[:, h], label, size, 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_counted_in_blocks_or_by_sorting_are_those_of_the_dense_table(dtype, weighted, monkeypatch):
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 200, 500).astype(dtype), rng.integers(0, 30, 500).astype(dtype)
    weights = rng.integers(1, 5, 500) if weighted else None
    ones = np.ones(500, dtype=int) if weights is None else weights
    expected = contingency(np.repeat(a, ones), np.repeat(b, ones), 200, 30)
    ways = {"sorted": (0, 10**6), "whole": (10**6, 10**6), "blocks": (10**6, 12)}
    for cells_a_row, entries in ways.values():
        monkeypatch.setattr("icce_ray.core.metrics._CELLS_PER_ROW", cells_a_row)
        monkeypatch.setattr("icce_ray.core.metrics._BLOCK_ENTRIES", entries)
        found = pair_counts(a, b, 200, 30, weights)
        np.testing.assert_array_equal(found.toarray(), expected)
        assert found.data.dtype == np.int64
        assert (found.data > 0).all()
        assert found.has_sorted_indices


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contingency([0, 1], [0], 2, 2), "a has 2 labels and b has 1"),
        (lambda: contingency([0, 5], [0, 1], 2, 2), "a spans 0 to 5"),
        (lambda: contingency([-1, 0], [0, 1], 2, 2), "a spans -1 to 0"),
        (lambda: contingency([0.5, 1.0], [0, 1], 2, 2), "give integers"),
        (lambda: nmi(np.zeros((2, 2), dtype=int)), "count no image"),
        (lambda: scores([], []), "at least one image"),
    ],
)
def test_errors_name_the_value(call, message):
    with fails(ValueError, message):
        call()


def test_confusions_are_the_errors_of_the_matching():
    table = np.array([[0, 30, 4], [50, 0, 4], [0, 9, 8], [1, 0, 0]])
    found = confusions(table, 10)
    # Clusters 0, 1, 2 are matched to classes 1, 0, 2, and cluster 3 to none.
    assert found == [(2, 2, 1, 9), (0, 1, 2, 4), (1, 0, 2, 4), (3, -1, 0, 1)]
    assert confusions(table, 2) == found[:2]
    assert sum(images for *_, images in found) == table.sum() - round(table_scores(table)["acc"] * table.sum())
    assert confusions(np.diag([3, 4]), 5) == []
