"""What the consensus methods ask of a partitioner, and the one case that needs none."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


class ConsensusSizeError(ValueError):
    """A problem too large, too small or too degenerate for a method; says value, limit and remedy."""


class Partitioner(Protocol):
    """Cuts a graph or a hypergraph into parts of about equal vertex weight, with little weight between them.

    `edges` is the symmetric matrix of a graph, float csr [n, n], whose diagonal is ignored; or the hyperedges, csr
    [E, n] with an entry for each vertex of a hyperedge, all of weight one. `vertex_weights` are int[n] >= 0, and
    `imbalance` is how far, relatively, a part may exceed the mean weight (0.05: by 5 %). Returns the part of each
    vertex, int32[n] in [0, n_parts): the same seed and input give the same parts.
    """

    def __call__(
        self,
        edges: sparse.csr_matrix,
        vertex_weights: NDArray[np.int64],
        n_parts: int,
        seed: int,
        *,
        imbalance: float,
    ) -> NDArray[np.int32]:
        """Cut it."""
        ...


class Partitioners(NamedTuple):
    """What cuts the graphs of CSPA, MCLA and HBGF, and what cuts the hypergraph of HGPA."""

    graph: Partitioner
    hypergraph: Partitioner


def zero_cut(graph: sparse.csr_matrix, n_parts: int) -> NDArray[np.int32] | None:
    """The parts int32[n] of a symmetric graph csr [n, n] that falls into exactly `n_parts` pieces by itself, else None.

    Its connected components cut no edge: no partition is better, however unequal their sizes are. A balanced
    partitioner would break the large ones. Parts are numbered by first appearance; a vertex whose row has no entry
    (a cluster without images) belongs to none, -1.
    """
    present = np.flatnonzero(np.diff(graph.indptr) > 0)
    whole = present.size == graph.indptr.size - 1
    n_components, label = connected_components(graph if whole else graph[present][:, present], directed=False)
    if n_components != n_parts:
        return None
    parts = np.full(graph.indptr.size - 1, -1, dtype=np.int32)
    parts[present] = label
    return parts
