"""MCLA: cluster the clusters of all heads, then give each image to its meta-cluster (Strehl & Ghosh 2002, 3.4).

In two parts, because it is the method that scales: `meta_clusters` sees only the co-occurrence of the H K
clusters, a sum over shards, and `assign` labels one shard at a time.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import (
    Collapsed,
    check_problem,
    cooccurrence,
    incidence,
    jaccard,
)
from icce_ray.core.consensus.partitioning import ConsensusSizeError, GraphPartitioner, zero_cut

MAX_EDGES = 60_000_000
"""Entries of the co-occurrence of clusters served; 57 million (10,000 clusters) took 16 s and 3 GB on one core."""
_BLOCK_ENTRIES = 4_000_000


def meta_clusters(
    shared: sparse.csr_matrix,
    n_clusters: int,
    partition: GraphPartitioner,
    seed: int,
    *,
    imbalance: float = 0.05,
    max_edges: int = MAX_EDGES,
) -> NDArray[np.int32]:
    """Group the clusters of all heads into K meta-clusters by their Jaccard indices.

    Args:
        shared: int64 csr [C, C], the co-occurrence of all images (`cooccurrence`, summed over shards).
        n_clusters: K >= 2.
        partition: cuts the graph of clusters.
        seed: for the partitioner.
        imbalance: passed to the partitioner.
        max_edges: limit of the entries of `shared`.

    Returns:
        int32[C], meta-cluster of each cluster in [0, K), -1 for clusters without images.

    Raises:
        ConsensusSizeError: fewer non-empty clusters than K, K < 2, or too many entries.
    """
    present = np.flatnonzero(shared.diagonal() > 0)
    if n_clusters < 2 or present.size < n_clusters:
        raise ConsensusSizeError(
            f"the heads have {present.size} non-empty clusters, from which {n_clusters} meta-clusters cannot be "
            f"formed; ask for 2 to {present.size} clusters, or use more heads"
        )
    if shared.nnz > max_edges:
        raise ConsensusSizeError(
            f"the heads' clusters overlap in {shared.nnz} pairs, MCLA's limit is {max_edges}; use fewer heads or "
            f"raise max_edges"
        )
    meta = zero_cut(shared, n_clusters)
    if meta is None:
        graph = jaccard(shared)[present][:, present]
        equal = np.ones(present.size, dtype=np.int64)
        meta = np.full(shared.indptr.size - 1, -1, dtype=np.int32)
        meta[present] = partition(graph, equal, n_clusters, seed, imbalance=imbalance)
    return meta


def assign(
    labels: NDArray[np.integer], offsets: NDArray[np.int64], meta: NDArray[np.int32], n_clusters: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Give each image of a shard to the meta-cluster with its largest mean association.

    The association of an image with a meta-cluster is the share of the meta-cluster's clusters it belongs to.

    Args:
        labels: int[N, H], a shard of any size.
        offsets: int64[H + 1] of `head_offsets`.
        meta: int32[C] of `meta_clusters`.
        n_clusters: K.

    Returns:
        label int32[N] in [0, K), the first of equals; association float32[N] in [0, 1], that of the label.
    """
    kept = np.flatnonzero(meta >= 0)
    sizes = np.bincount(meta[kept], minlength=n_clusters)
    share = np.zeros((meta.size, n_clusters))
    share[kept, meta[kept]] = 1.0 / sizes[meta[kept]]
    label = np.empty(labels.shape[0], dtype=np.int32)
    association = np.empty(labels.shape[0], dtype=np.float32)
    step = max(1, _BLOCK_ENTRIES // max(n_clusters, labels.shape[1]))
    for start in range(0, labels.shape[0], step):
        block = slice(start, start + step)
        mean = incidence(labels[block], offsets) @ share
        label[block] = mean.argmax(axis=1)
        association[block] = mean.max(axis=1)
    return label, association


def mcla(
    rows: Collapsed, n_clusters: int, partition: GraphPartitioner, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Both parts in one place, for distinct rows: int32[U] in [0, K). Arguments and errors as the parts'."""
    check_problem(rows.n_images, n_clusters)
    shared = cooccurrence(rows.labels, rows.offsets, rows.counts)
    meta = meta_clusters(shared, n_clusters, partition, seed, imbalance=imbalance)
    return assign(rows.labels, rows.offsets, meta, n_clusters)[0]
