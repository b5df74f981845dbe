"""Collapsing and the largest of rows against plain loops; shards against the whole."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from icce_ray.core.consensus.clusters import (
    ConsensusSizeError,
    check_labels,
    check_problem,
    collapse,
    first_largest,
    head_offsets,
    zero_cut,
)
from tests.failures import fails

SIZES = np.array([3, 5, 2, 4])


def head_labels(n=40, seed=0, dtype=np.int32):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, k, n) for k in SIZES], axis=1).astype(dtype)


def test_first_largest_of_rows_is_the_lowest_column_of_equals():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 4, (50, 6)) * (rng.random((50, 6)) < 0.6)
    dense[7] = 0
    found = sparse.csr_matrix(dense)
    shuffled = found.copy()
    for start, stop in itertools.pairwise(found.indptr):  # as products of sparse matrices leave them
        order = start + rng.permutation(stop - start)
        shuffled.indices[start:stop], shuffled.data[start:stop] = found.indices[order], found.data[order]
    for values in (found, shuffled):
        column, largest = first_largest(values)
        np.testing.assert_array_equal(largest, dense.max(axis=1))
        np.testing.assert_array_equal(column, np.where(dense.any(axis=1), dense.argmax(axis=1), -1))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint8])
def test_collapsed_rows_stand_for_all_images(dtype):
    labels = head_labels(dtype=dtype)[np.random.default_rng(1).integers(0, 15, 40)]
    rows = collapse(labels)
    np.testing.assert_array_equal(rows.labels[rows.index], labels)
    assert rows.labels.shape[0] == np.unique(labels, axis=0).shape[0]
    np.testing.assert_array_equal(rows.counts, np.bincount(rows.index))
    assert rows.n_images == 40


@pytest.mark.parametrize("shards", [2, 7])
def test_collapsing_collapsed_shards_collapses_the_whole(shards):
    labels = head_labels()[np.random.default_rng(1).integers(0, 15, 60)]
    parts = [collapse(part) for part in np.array_split(labels, shards)]
    merged = collapse(np.concatenate([p.labels for p in parts]), np.concatenate([p.counts for p in parts]))
    whole = collapse(labels)
    np.testing.assert_array_equal(merged.labels, whole.labels)
    np.testing.assert_array_equal(merged.counts, whole.counts)


def test_rows_with_equal_hashes_are_told_apart(monkeypatch):
    class Zeros:
        def integers(self, *_, size, dtype):
            return np.zeros(size, dtype=dtype)

    labels = np.array([[0, 1], [1, 0], [0, 1]])  # with factors of 0 | 1 both rows hash to 1
    monkeypatch.setattr(np.random, "default_rng", lambda _: Zeros())
    rows = collapse(labels)
    np.testing.assert_array_equal(rows.labels[rows.index], labels)
    np.testing.assert_array_equal(rows.counts, [2, 1])


def test_sizes_are_those_of_the_largest_labels():
    np.testing.assert_array_equal(check_labels(np.array([[0, 4], [2, 1]])), [3, 5])
    np.testing.assert_array_equal(head_offsets([3, 5]), [0, 3, 8])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((0, 3), int), "shape [N, H]"),
        (np.zeros(3, int), "shape [N, H]"),
        (np.zeros((2, 2)), "float64"),
        (np.array([[0, -1]]), "go down to -1"),
    ],
)
def test_malformed_labels_are_refused(labels, message):
    with fails(ValueError, message):
        check_labels(labels)


def test_impossible_problems_are_refused():
    with fails(ConsensusSizeError, "at least 2"):
        check_problem(10, 1)
    with fails(ConsensusSizeError, "3 images", "4"):
        check_problem(3, 4)


def test_components_are_the_parts_only_if_their_number_fits():
    blocks = sparse.csr_matrix(sparse.block_diag([np.ones((3, 3)), np.zeros((1, 1)), np.ones((2, 2))]))
    blocks.eliminate_zeros()
    np.testing.assert_array_equal(zero_cut(blocks, 2), [0, 0, 0, -1, 1, 1])
    assert zero_cut(blocks, 3) is None
    whole = sparse.csr_matrix(np.ones((3, 3)))
    assert zero_cut(whole, 2) is None
