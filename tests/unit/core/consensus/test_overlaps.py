"""The graph of clusters against sets of images; blocks of heads; what a limit leaves out."""

import numpy as np
import pytest

from icce_ray.core.consensus.clusters import collapse, head_offsets, present
from icce_ray.core.consensus.mcla import all_pairs, cluster_graph, overlaps

SIZES = np.array([3, 5, 2, 4])
OFFSETS = head_offsets(SIZES)
PAIRS = all_pairs(4)


def head_labels(n=40, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, k, n) for k in SIZES], axis=1).astype(np.int32)
    labels[labels[:, 1] == 4, 1] = 3  # a cluster without images
    return labels


def columns(labels):
    return dict(enumerate(labels.T))


def test_edges_are_jaccard_indices_of_sets():
    labels = head_labels()
    sets = [set(np.flatnonzero(labels[:, h] == a)) for h, k in enumerate(SIZES) for a in range(k)]
    graph = cluster_graph([overlaps(columns(labels), PAIRS, OFFSETS)], present(labels, OFFSETS))
    assert graph.has_sorted_indices
    for c, one in enumerate(sets):
        for d, other in enumerate(sets):
            assert graph[c, d] == pytest.approx(len(one & other) / max(1, len(one | other)))
    np.testing.assert_array_equal(np.diff(graph.indptr) > 0, [bool(one) for one in sets])


def test_blocks_of_heads_in_any_order_make_the_same_graph():
    labels = head_labels()
    whole = cluster_graph([overlaps(columns(labels), PAIRS, OFFSETS)], present(labels, OFFSETS))
    blocks = [overlaps(columns(labels), pairs, OFFSETS) for pairs in (PAIRS[4:], PAIRS[:1], PAIRS[1:4])]
    other = cluster_graph(blocks, present(labels, OFFSETS))
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(other, name), getattr(whole, name))


def test_distinct_rows_with_their_counts_make_the_graph_of_all_images():
    labels = head_labels()[np.random.default_rng(1).integers(0, 15, 60)]
    rows = collapse(labels)
    found = overlaps(columns(rows.labels), PAIRS, OFFSETS, rows.counts)
    for one, other in zip(found, overlaps(columns(labels), PAIRS, OFFSETS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_beyond_the_limit_each_table_keeps_its_strongest_edges():
    rng = np.random.default_rng(0)
    sizes, n = [12, 12, 20], 3000
    truth = rng.integers(0, 12, n)
    labels = np.stack([np.where(rng.random(n) < 0.3, rng.integers(0, k, n), truth) for k in sizes], axis=1)
    offsets, pairs, limit = head_offsets(sizes), all_pairs(3), 400
    whole = overlaps(columns(labels), pairs, offsets)
    cut = overlaps(columns(labels), pairs, offsets, max_edges=limit)
    assert 2 * len(cut.row) <= limit < 2 * len(whole.row)
    kept = set(zip(cut.row.tolist(), cut.column.tolist(), strict=True))
    head = np.searchsorted(offsets, np.arange(offsets[-1]), side="right")
    for pair in pairs:
        of_pair = [i for i in range(len(whole.row)) if (head[whole.row[i]] - 1, head[whole.column[i]] - 1) == pair]
        share = int(limit * sizes[pair[0]] * sizes[pair[1]] / offsets[-1] ** 2)
        strongest = sorted(of_pair, key=lambda i: -whole.jaccard[i])[:share]
        assert {(int(whole.row[i]), int(whole.column[i])) for i in strongest} == {
            (int(whole.row[i]), int(whole.column[i])) for i in of_pair
        } & kept
    true = {(k, int(offsets[1]) + k) for k in range(12)}
    assert true <= kept  # what two heads agree on is far above chance


def test_edges_as_strong_as_one_left_out_are_left_out():
    labels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    offsets = head_offsets([2, 2])
    assert len(overlaps(columns(labels), [(0, 1)], offsets, max_edges=16).row) == 4
    assert len(overlaps(columns(labels), [(0, 1)], offsets, max_edges=12).row) == 0
