"""The partitioners: valid parts, the obvious cut, the same parts for the same seed, silence."""

import sys

import numpy as np
import pytest
from scipy import sparse

from icce_ray.search.partition import metis_graph, metis_graph_apart, mtkahypar_hypergraph
from tests.failures import fails


def two_communities(n=60, seed=0, scale=1.0):
    """A dense graph of two halves with a few weak edges between them."""
    rng = np.random.default_rng(seed)
    half = np.arange(n) < n // 2
    same = half[:, None] == half[None, :]
    dense = np.where(same, rng.integers(5, 9, (n, n)), rng.random((n, n)) < 0.1) * scale
    dense = np.triu(dense, 1)
    return sparse.csr_matrix(dense + dense.T), half


def hypergraph(seed=0, n=60):
    rng = np.random.default_rng(seed)
    half = np.arange(n) < n // 2
    sides = [np.flatnonzero(half), np.flatnonzero(~half)]
    edges = [np.sort(rng.choice(sides[e % 2], 20, replace=False)) for e in range(30)]
    edges.append(np.array([0, n - 1]))
    edges.insert(3, np.array([], dtype=int))
    indptr = np.concatenate([[0], np.cumsum([edge.size for edge in edges])])
    pins = np.concatenate(edges)
    members = sparse.csr_matrix((np.ones(pins.size), pins, indptr), shape=(len(edges), n))
    return members, np.ones(n, dtype=int), half


def same_partition(parts, half):
    return np.unique(parts[half]).size == 1 and np.unique(parts[~half]).size == 1 and np.unique(parts).size == 2


@pytest.mark.parametrize("scale", [1.0, 1e-4, 0.37, 1e15])
def test_metis_finds_the_two_communities_at_any_scale_of_weights(scale):
    graph, half = two_communities(scale=scale)
    parts = metis_graph(graph, np.ones(60, dtype=int), 2, seed=1)
    assert parts.dtype == np.int32
    assert same_partition(parts, half)


def test_metis_ignores_the_diagonal():
    graph, _ = two_communities()
    loops = sparse.csr_matrix(graph + 1000 * sparse.eye_array(60))
    np.testing.assert_array_equal(
        metis_graph(loops, np.ones(60, dtype=int), 2, seed=1), metis_graph(graph, np.ones(60, dtype=int), 2, seed=1)
    )


def test_mtkahypar_finds_the_two_sides():
    *problem, half = hypergraph()
    parts = mtkahypar_hypergraph(*problem, 2, 0)
    assert parts.dtype == np.int32
    assert same_partition(parts, half)


@pytest.mark.parametrize("n_parts", [2, 3, 9])
def test_the_same_seed_gives_the_same_parts(n_parts):
    graph, _ = two_communities(seed=2)
    *problem, _ = hypergraph(seed=2)
    for seed in (0, 7, 2**40):
        first = metis_graph(graph, np.ones(60, dtype=int), n_parts, seed)
        np.testing.assert_array_equal(first, metis_graph(graph, np.ones(60, dtype=int), n_parts, seed))
        first = mtkahypar_hypergraph(*problem, n_parts, seed)
        np.testing.assert_array_equal(first, mtkahypar_hypergraph(*problem, n_parts, seed))


def test_parts_balance_vertex_weights_not_vertices():
    n, rng = 200, np.random.default_rng(3)
    dense = np.triu(rng.random((n, n)) < 0.1, 1)
    graph = sparse.csr_matrix((dense | dense.T).astype(float))
    weights = np.where(np.arange(n) < 40, 9, 1)
    heavy = np.bincount(metis_graph(graph, weights, 4, seed=0), weights=weights, minlength=4)
    assert heavy.max() <= weights.sum() / 4 * 1.1


def test_one_part_and_no_edges():
    graph, _ = two_communities()
    *problem, _ = hypergraph()
    assert not metis_graph(graph, np.ones(60, dtype=int), 1, 0).any()
    assert not mtkahypar_hypergraph(*problem, 1, 0).any()
    for cut in (metis_graph, mtkahypar_hypergraph):
        np.testing.assert_array_equal(cut(sparse.csr_matrix((4, 4)), np.ones(4, dtype=int), 2, 0), [0, 1, 0, 1])


def test_nothing_is_printed(capfd):
    graph, _ = two_communities()
    *problem, _ = hypergraph()
    metis_graph(graph, np.ones(60, dtype=int), 50, 0)
    mtkahypar_hypergraph(*problem, 5, 0)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


ONES = np.ones(60, dtype=int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: metis_graph(g, np.ones(5, dtype=int), 2, 0), "one weight per vertex"),
        (lambda g: metis_graph(g, ONES, 61, 0), "cannot be cut into 61 parts"),
        (lambda g: metis_graph(g, ONES, 0, 0), "cannot be cut into 0 parts"),
        (lambda g: metis_graph(g, -ONES, 2, 0), "vertex weights go from -1"),
        (lambda g: metis_graph(g, 0 * ONES, 2, 0), "not all zero"),
        (lambda g: metis_graph(g, ONES, 2, 0, imbalance=0), "imbalance is 0"),
        (lambda g: metis_graph(-g, ONES, 2, 0), "edge weights go from"),
        (lambda g: metis_graph(g * np.nan, ONES, 2, 0), "edge weights go from nan"),
        (lambda g: metis_graph(sparse.csr_matrix(sparse.triu(g)), ONES, 2, 0), "not symmetric"),
        (lambda g: metis_graph(g[:, :30], ONES, 2, 0), "square"),
    ],
)
def test_metis_refuses_what_it_would_misread(call, message):
    with pytest.raises(ValueError, match=message):
        call(two_communities()[0])


def test_mtkahypar_refuses_what_it_would_misread():
    edges, vertices, _ = hypergraph()
    with fails(ValueError, "not all zero"):
        mtkahypar_hypergraph(edges, 0 * vertices, 2, 0)
    with fails(ValueError, "60 vertices", "shape (59,)"):
        mtkahypar_hypergraph(edges, vertices[1:], 2, 0)
    foreign = edges.copy()
    foreign.indices[0] = 99
    with pytest.raises(ValueError, match="ind"):
        mtkahypar_hypergraph(foreign, vertices, 2, 0)


@pytest.mark.parametrize(("n_parts", "seed", "imbalance"), [(2, 0, 0.05), (7, 3, 0.5), (60, 1, 0.05)])
def test_metis_in_a_process_of_its_own_gives_the_same_parts(n_parts, seed, imbalance):
    graph, _ = two_communities(scale=0.37)
    apart = metis_graph_apart(graph, ONES, n_parts, seed, imbalance=imbalance)
    assert apart.dtype == np.int32
    assert apart.tolist() == metis_graph(graph, ONES, n_parts, seed, imbalance=imbalance).tolist()


def test_metis_in_a_process_of_its_own_has_the_same_errors(monkeypatch):
    graph, _ = two_communities()
    with fails(ValueError, "60 vertices cannot be cut into 61 parts; ask for 1 to 60"):
        metis_graph_apart(graph, ONES, 61, 0)
    with fails(ValueError, "not symmetric"):
        metis_graph_apart(sparse.csr_matrix(sparse.triu(graph)), ONES, 3, 0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with fails(RuntimeError, "METIS ended with status 1 on 60 vertices"):
        metis_graph_apart(graph, ONES, 3, 0)
