"""The four methods with small partitioners of the test's own: sizes, shards, what they hand to the partitioner."""

import functools

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix

from icce_ray.core.consensus import ConsensusSizeError, graphs
from icce_ray.core.consensus.clusters import collapse, head_offsets, incidence, present
from icce_ray.core.consensus.ensemble import LocalRows
from icce_ray.core.consensus.graphs import cspa, hbgf, hgpa, similarity
from icce_ray.core.consensus.mcla import all_pairs, assign, cluster_graph, meta_clusters, overlaps
from tests.failures import fails
from tests.noisy_heads import noisy_heads

noisy = functools.partial(noisy_heads, n=60, n_heads=6, k=3)


def cut_graph(weights, vertex_weights, n_parts, seed, *, imbalance):
    """Average linkage: not balanced, but a partition of the right graph is good."""
    assert weights.shape == (vertex_weights.size, vertex_weights.size)
    assert imbalance > 0
    dense = weights.toarray().astype(float)
    np.testing.assert_allclose(dense, dense.T)
    distance = 1 - dense / dense.max()
    pairs = distance[np.triu_indices(len(dense), 1)]
    return (fcluster(linkage(pairs, "average"), n_parts, "maxclust") - 1).astype(np.int32)


def cut_hypergraph(edges, vertex_weights, n_parts, seed, *, imbalance):
    assert edges.shape[1] == vertex_weights.size
    assert np.diff(edges.indptr).all(), "empty hyperedges say nothing"
    return cut_graph(csr_matrix(edges.T @ edges), vertex_weights, n_parts, seed, imbalance=imbalance)


def graph_of(labels, offsets):
    found = overlaps(dict(enumerate(labels.T)), all_pairs(labels.shape[1]), offsets)
    return cluster_graph([found], present(labels, offsets))


def mcla(rows, n_clusters, partition, seed):
    local = LocalRows(rows)
    (meta,) = local.meta_clusters(n_clusters, partition, seed, (0.05,))
    return local.assign(meta, n_clusters)


METHODS = [(cspa, cut_graph), (hgpa, cut_hypergraph), (mcla, cut_graph), (hbgf, cut_graph)]
IDS = ["cspa", "hgpa", "mcla", "hbgf"]


@pytest.mark.parametrize(("method", "partition"), METHODS, ids=IDS)
def test_fewer_distinct_rows_than_clusters_or_images_than_clusters(method, partition):
    two_rows = collapse(np.repeat([[0, 1, 2, 0], [1, 2, 0, 1]], 5, axis=0))
    label = method(two_rows, 3, partition, 0) if method is not mcla else np.arange(2)
    assert np.unique(label).size == 2
    for k in (1, 11):
        with pytest.raises(ConsensusSizeError):
            method(two_rows, k, partition, 0)


def never_called(*_, **__):
    raise AssertionError("components need no partitioner")


@pytest.mark.parametrize(("method", "partition"), METHODS, ids=IDS)
def test_images_that_share_no_cluster_across_k_groups_need_no_cut(method, partition):
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [50, 8, 2])
    labels = truth[:, None] * 2 + rng.integers(0, 2, (60, 4))  # every head halves every class in its own way
    labels[truth == 2] = 4
    labels[truth == 1, 0] = 2
    rows = collapse(labels)
    label = method(rows, 3, never_called, 0)[rows.index]
    assert np.unique(np.stack([label, truth]), axis=1).shape[1] == 3


@pytest.mark.parametrize(("method", "partition"), METHODS, ids=IDS)
def test_labels_are_one_for_each_row_and_in_range(method, partition):
    rows = collapse(noisy()[0])
    label = method(rows, 3, partition, 0)
    assert label.shape == rows.counts.shape
    assert label.dtype == np.int32
    assert set(label) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("method", "limit"), [(cspa, "MAX_CSPA_ROWS"), (hgpa, "MAX_HGPA_PINS"), (hbgf, "MAX_HBGF_EDGES")]
)
def test_refusals_state_value_limit_and_remedy(method, limit, monkeypatch):
    rows = collapse(noisy()[0])
    monkeypatch.setattr(graphs, limit, 7)
    with fails(ConsensusSizeError, rows.labels.shape[0], "limit of 7", "MCLA"):
        method(rows, 3, never_called, 0)


def test_similarity_counts_agreeing_heads_and_multiplicities():
    rows = collapse(np.repeat(noisy(n=30)[0], 2, axis=0)[:50])
    graph = similarity(incidence(rows.labels, rows.offsets), rows.counts, 10**6).toarray()
    for i, one in enumerate(rows.labels):
        for j, other in enumerate(rows.labels):
            expected = 0 if i == j else np.sum(one == other) * rows.counts[i] * rows.counts[j]
            assert graph[i, j] == expected


def test_similarity_drops_the_weakest_levels_until_it_fits():
    rows = collapse(noisy(n=200)[0])
    members = incidence(rows.labels, rows.offsets)
    ones = np.ones_like(rows.counts)
    full = similarity(members, ones, 10**6)
    limit = full.nnz // 2
    cut = similarity(members, ones, limit)
    level = int(cut.data.min())
    assert level > 1
    assert cut.nnz <= limit < np.sum(full.data >= level - 1)
    assert cut.nnz == np.sum(full.data >= level)
    with fails(ConsensusSizeError, "limit of 0"):
        similarity(members, ones, 0)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_assignment_of_shards_is_that_of_the_whole(shards):
    labels, _ = noisy(n=90)
    offsets = head_offsets([3] * 6)
    meta = meta_clusters(graph_of(labels, offsets), 3, cut_graph, 0)
    parts = [assign(part, offsets, meta, 3) for part in np.array_split(labels, shards)]
    rows = collapse(labels)
    np.testing.assert_array_equal(np.concatenate(parts), mcla(rows, 3, cut_graph, 0)[rows.index])


def test_assignment_is_the_largest_mean_association(monkeypatch):
    labels, _ = noisy(n=50)
    offsets = head_offsets([3] * 6)
    meta = np.random.default_rng(0).integers(-1, 3, 18).astype(np.int32)
    label = assign(labels, offsets, meta, 3)
    for n, row in enumerate(labels):
        mine = {int(offsets[h] + a) for h, a in enumerate(row)}
        mean = [np.mean([c in mine for c in np.flatnonzero(meta == k)]) for k in range(3)]
        assert mean[label[n]] == pytest.approx(max(mean))
    monkeypatch.setattr("icce_ray.core.consensus.mcla._BLOCK_ENTRIES", 60)
    np.testing.assert_array_equal(assign(labels, offsets, meta, 3), label)


def test_clusters_without_images_join_no_meta_cluster():
    labels, offsets = noisy()[0], head_offsets([5] * 6)
    meta = meta_clusters(graph_of(labels, offsets), 3, cut_graph, 0)
    np.testing.assert_array_equal(meta == -1, ~present(labels, offsets))


def test_meta_clusters_refuse_too_few_clusters():
    graph = graph_of(noisy()[0], head_offsets([3] * 6))
    with fails(ConsensusSizeError, "18 non-empty clusters", "19"):
        meta_clusters(graph, 19, cut_graph, 0)
