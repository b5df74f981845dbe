"""MCLA: cluster the clusters of all heads, then give each image to its meta-cluster (Strehl & Ghosh 2002, 3.4).

In two parts, because it is the method that scales: `meta_clusters` sees only the graph of the H K clusters
(`overlaps.cluster_graph`), and `assign` labels one shard at a time.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import first_largest, incidence
from icce_ray.core.consensus.partitioning import ConsensusSizeError, GraphPartitioner, zero_cut

_BLOCK_ENTRIES = 4_000_000


def meta_clusters(
    graph: sparse.csr_matrix,
    n_clusters: int,
    partition: GraphPartitioner,
    seed: int,
    *,
    imbalance: float = 0.05,
) -> NDArray[np.int32]:
    """Group the clusters of all heads into K meta-clusters by their Jaccard indices.

    Args:
        graph: float64 csr [C, C] of `cluster_graph`.
        n_clusters: K >= 2.
        partition: cuts the graph of clusters.
        seed: for the partitioner.
        imbalance: passed to the partitioner.

    Returns:
        int32[C], meta-cluster of each cluster in [0, K), -1 for clusters without images.

    Raises:
        ConsensusSizeError: fewer non-empty clusters than K, or K < 2.
    """
    present = np.flatnonzero(graph.diagonal() > 0)
    check_clusters(present.size, n_clusters)
    meta = zero_cut(graph, n_clusters)
    if meta is None:
        meta = np.full(graph.indptr.size - 1, -1, dtype=np.int32)
        inner = graph if present.size == meta.size else graph[present][:, present]
        meta[present] = partition(inner, np.ones(present.size, dtype=np.int64), n_clusters, seed, imbalance=imbalance)
    return meta


def check_clusters(n_present: int, n_clusters: int) -> None:
    """Raise ConsensusSizeError if so many non-empty clusters of heads cannot be grouped into K."""
    if n_clusters < 2 or n_present < n_clusters:
        raise ConsensusSizeError(
            f"the heads have {n_present} non-empty clusters, from which {n_clusters} meta-clusters cannot be "
            f"formed; ask for 2 to {n_present} clusters, or use more heads"
        )


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
    share = 1.0 / np.bincount(meta[kept], minlength=n_clusters)[meta[kept]]
    shares = sparse.csr_matrix((share, (kept, meta[kept])), shape=(meta.size, n_clusters))
    label = np.empty(labels.shape[0], dtype=np.int32)
    association = np.empty(labels.shape[0], dtype=np.float32)
    step = max(1, _BLOCK_ENTRIES // labels.shape[1])
    for start in range(0, labels.shape[0], step):
        block = slice(start, start + step)
        chosen, association[block] = first_largest(sparse.csr_matrix(incidence(labels[block], offsets) @ shares))
        label[block] = np.maximum(chosen, 0)
    return label, association
