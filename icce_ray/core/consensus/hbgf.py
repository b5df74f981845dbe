"""HBGF: cut the bipartite graph of images and clusters, both at once (Fern & Brodley, ICML 2004)."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import Collapsed, bipartite, check_problem, incidence
from icce_ray.core.consensus.partitioning import ConsensusSizeError, GraphPartitioner, zero_cut

MAX_EDGES = 10_000_000
"""Memberships (distinct rows x heads) served; 10 million took 16 s and 1.7 GB on one core."""


def hbgf(
    rows: Collapsed,
    n_clusters: int,
    partition: GraphPartitioner,
    seed: int,
    *,
    imbalance: float = 0.05,
    max_edges: int = MAX_EDGES,
) -> NDArray[np.int32]:
    """Consensus by the bipartite graph of distinct rows and head clusters.

    Rows weigh their multiplicity, edges too; clusters weigh nothing, so that the balance is one of images.

    Args:
        rows: from `collapse`.
        n_clusters: K >= 2.
        partition: cuts the graph.
        seed: for the partitioner.
        imbalance: passed to the partitioner.
        max_edges: limit of distinct rows x heads.

    Returns:
        int32[U], consensus label of each distinct row, in [0, K).

    Raises:
        ConsensusSizeError: too many memberships, fewer images than K, or K < 2.
    """
    check_problem(rows.n_images, n_clusters)
    n_rows, n_heads = rows.labels.shape
    check_hbgf(n_rows, n_heads, max_edges)
    if n_rows <= n_clusters:
        return np.arange(n_rows, dtype=np.int32)
    members = incidence(rows.labels, rows.offsets)
    graph = bipartite(sparse.csr_matrix(sparse.diags_array(rows.counts.astype(np.float64)) @ members))
    parts = zero_cut(graph, n_clusters)
    if parts is None:
        vertices = np.concatenate([rows.counts, np.zeros(rows.offsets[-1], dtype=np.int64)])
        parts = partition(graph, vertices, n_clusters, seed, imbalance=imbalance)
    return parts[:n_rows]


def check_hbgf(n_rows: int, n_heads: int, max_edges: int = MAX_EDGES) -> None:
    """Raise ConsensusSizeError if distinct rows x heads exceed the limit."""
    if n_rows * n_heads > max_edges:
        raise ConsensusSizeError(
            f"HBGF's graph has an edge for every distinct row and head: {n_rows} x {n_heads} exceed its limit of "
            f"{max_edges}; use MCLA, whose graph does not grow with the number of images, or raise max_edges"
        )
