"""What the consensus methods ask of a partitioner, and the one case that needs none."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


class ConsensusSizeError(ValueError):
    """A problem too large, too small or too degenerate for a method; says value, limit and remedy."""


class GraphPartitioner(Protocol):
    """Cuts a weighted graph into parts of about equal vertex weight with little weight between them."""

    def __call__(
        self,
        weights: sparse.csr_matrix,
        vertex_weights: NDArray[np.int64],
        n_parts: int,
        seed: int,
        *,
        imbalance: float,
    ) -> NDArray[np.int32]:
        """Part of each vertex, int32[n] in [0, n_parts).

        Args:
            weights: float csr [n, n], symmetric; the diagonal is ignored.
            vertex_weights: int[n] >= 0.
            n_parts: number of parts.
            seed: same seed and input, same parts.
            imbalance: how far, relatively, a part may exceed the mean weight (0.05: by 5 %).
        """
        ...


class HypergraphPartitioner(Protocol):
    """Cuts a hypergraph into parts of about equal vertex weight, splitting few hyperedges into few pieces."""

    def __call__(
        self,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int64],
        edge_weights: NDArray[np.int64],
        vertex_weights: NDArray[np.int64],
        n_parts: int,
        seed: int,
        *,
        imbalance: float,
    ) -> NDArray[np.int32]:
        """Part of each vertex, int32[n] in [0, n_parts).

        Args:
            indptr: int[E + 1]; hyperedge e holds the vertices `indices[indptr[e]:indptr[e + 1]]`.
            indices: int[pins], vertex numbers in [0, n).
            edge_weights: int[E] > 0.
            vertex_weights: int[n] > 0.
            n_parts: number of parts.
            seed: same seed and input, same parts.
            imbalance: how far, relatively, a part may exceed the mean weight (0.05: by 5 %).
        """
        ...


def zero_cut(graph: sparse.csr_matrix, n_parts: int) -> NDArray[np.int32] | None:
    """The parts of a graph that falls into exactly `n_parts` pieces by itself, else None.

    Its connected components cut no edge: no partition is better, however unequal their sizes are. A balanced
    partitioner would break the large ones. Isolated vertices (clusters without images) belong to no part.

    Args:
        graph: csr [n, n], symmetric; a vertex exists if its row has an entry (its diagonal counts).
        n_parts: number of parts wanted.

    Returns:
        int32[n], -1 for isolated vertices, numbered by first appearance; or None.
    """
    present = np.diff(graph.indptr) > 0
    if present.all():
        n_components, label = connected_components(graph, directed=False)
        return label.astype(np.int32) if n_components == n_parts else None
    kept = np.flatnonzero(present)
    n_components, label = connected_components(graph[kept][:, kept], directed=False)
    if n_components != n_parts:
        return None
    parts = np.full(present.size, -1, dtype=np.int32)
    parts[kept] = label
    return parts
