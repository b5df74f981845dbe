"""METIS in a process of its own: the same parts and the same errors."""

import sys

import numpy as np
import pytest
from scipy import sparse

from icce_ray.adapters.partition import metis_graph
from icce_ray.adapters.partition_apart import metis_graph_apart
from tests.failures import fails


def graph(n=60, seed=0):
    rng = np.random.default_rng(seed)
    upper = sparse.csr_matrix(np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.3), 1))
    return sparse.csr_matrix(upper + upper.T), np.ones(n, dtype=np.int64)


@pytest.mark.parametrize(("n_parts", "seed", "imbalance"), [(2, 0, 0.05), (7, 3, 0.5), (60, 1, 0.05)])
def test_the_parts_are_the_same(n_parts, seed, imbalance):
    apart = metis_graph_apart(*graph(), n_parts, seed, imbalance=imbalance)
    assert apart.dtype == np.int32
    assert apart.tolist() == metis_graph(*graph(), n_parts, seed, imbalance=imbalance).tolist()


def test_errors_are_the_same():
    weights, vertices = graph()
    with fails(ValueError, "60 vertices cannot be cut into 61 parts; ask for 1 to 60"):
        metis_graph_apart(weights, vertices, 61, 0)
    lopsided = sparse.csr_matrix(np.triu(weights.toarray()))
    with fails(ValueError, "not symmetric"):
        metis_graph_apart(lopsided, vertices, 3, 0)


def test_a_process_that_dies_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with fails(RuntimeError, "METIS ended with status 1 on 60 vertices"):
        metis_graph_apart(*graph(), 3, 0)
