"""HGPA: cut the hypergraph whose hyperedges are the clusters of all heads (Strehl & Ghosh 2002, 3.3)."""

import numpy as np
from numpy.typing import NDArray

from icce_ray.core.consensus.clusters import Collapsed, bipartite, check_problem, incidence
from icce_ray.core.consensus.partitioning import ConsensusSizeError, HypergraphPartitioner, zero_cut

MAX_PINS = 1_000_000
"""Memberships (distinct rows x heads) served; one million took 18 s on one core for K = 10, more for a larger K."""


def hgpa(
    rows: Collapsed,
    n_clusters: int,
    partition: HypergraphPartitioner,
    seed: int,
    *,
    imbalance: float = 0.05,
    max_pins: int = MAX_PINS,
) -> NDArray[np.int32]:
    """Consensus by the hypergraph of head clusters, all of equal weight.

    Args:
        rows: from `collapse`; the vertices are the distinct rows, weighted by their multiplicity.
        n_clusters: K >= 2.
        partition: cuts the hypergraph.
        seed: for the partitioner.
        imbalance: passed to the partitioner.
        max_pins: limit of distinct rows x heads.

    Returns:
        int32[U], consensus label of each distinct row, in [0, K).

    Raises:
        ConsensusSizeError: too many memberships, fewer images than K, or K < 2.
    """
    check_problem(rows.n_images, n_clusters)
    n_rows, n_heads = rows.labels.shape
    check_hgpa(n_rows, n_heads, max_pins)
    if n_rows <= n_clusters:
        return np.arange(n_rows, dtype=np.int32)
    members = incidence(rows.labels, rows.offsets)
    parts = zero_cut(bipartite(members), n_clusters)
    if parts is not None:
        return parts[:n_rows]
    edges = members.T.tocsr()
    edges = edges[np.diff(edges.indptr) > 0]
    weights = np.ones(edges.indptr.size - 1, dtype=np.int64)
    starts, pins = edges.indptr.astype(np.int64), edges.indices.astype(np.int64)
    return partition(starts, pins, weights, rows.counts, n_clusters, seed, imbalance=imbalance)


def check_hgpa(n_rows: int, n_heads: int, max_pins: int = MAX_PINS) -> None:
    """Raise ConsensusSizeError if distinct rows x heads exceed the limit."""
    if n_rows * n_heads > max_pins:
        raise ConsensusSizeError(
            f"HGPA's hypergraph has a pin for every distinct row and head: {n_rows} x {n_heads} exceed its limit of "
            f"{max_pins}; use MCLA, whose graph does not grow with the number of images, or raise max_pins"
        )
