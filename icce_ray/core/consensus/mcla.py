"""MCLA: cluster the clusters of all heads, then give each image to its meta-cluster (Strehl & Ghosh 2002, 3.4).

It is the method that scales. Two clusters of one head share no image, so the graph of clusters, with edges by the
Jaccard index of two, falls into one table for each pair of heads (`overlaps`): a table needs the labels of two heads
and nothing else, and no cell of it is kept beyond its share of the limit, so neither the number of images nor their
noise makes the graph larger. `meta_clusters` sees only that graph, and `assign` labels one shard at a time.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import ConsensusSizeError, Partitioner, first_largest, incidence, zero_cut
from icce_ray.core.metrics import margins, pair_counts

MAX_EDGES = 20_000_000
"""Entries of the graph of clusters, both directions; see jobs/bench/RESULTS.md for what a larger graph changes."""
_BLOCK_ENTRIES = 4_000_000


class Overlaps(NamedTuple):
    """Jaccard indices of clusters of different heads, each pair once: the part of the graph above its diagonal."""

    row: NDArray[np.int32]
    """int32[E], cluster of the head that comes first, numbered as by `head_offsets`."""
    column: NDArray[np.int32]
    """int32[E], cluster of the other head."""
    jaccard: NDArray[np.float64]
    """float64[E] in (0, 1]."""


def all_pairs(n_heads: int) -> list[tuple[int, int]]:
    """Every two heads (g, h), g < h."""
    return [(g, h) for g in range(n_heads) for h in range(g + 1, n_heads)]


def overlaps(
    columns: Mapping[int, NDArray[np.integer]],
    heads: Iterable[tuple[int, int]],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64] | None = None,
    max_edges: int = MAX_EDGES,
) -> Overlaps:
    """Jaccard indices |a and b| / |a or b| of the clusters of some pairs of heads.

    Where the clusters of two heads overlap in more pairs than the share K_g K_h / C^2 of `max_edges`, the weakest
    indices are left out: they are the chance level, as in CSPA the pairs of images with few heads in common. With
    C^2 <= `max_edges` nothing is ever left out.

    Args:
        columns: int[N], labels of all images under each head that the pairs name.
        heads: the pairs (g, h), g < h.
        offsets: int64[H + 1] of `head_offsets`.
        counts: int64[N], how many images each row stands for; one each by default.
        max_edges: limit of the entries of the whole graph, both directions.

    Returns:
        The indices of all these pairs of heads, in their order.
    """
    sizes, share = np.diff(offsets).tolist(), max_edges / float(offsets[-1]) ** 2
    pieces = []
    for g, h in heads:
        table = pair_counts(columns[g], columns[h], sizes[g], sizes[h], counts)
        row, column, index = _strongest(table, int(share * sizes[g] * sizes[h]))
        pieces.append(Overlaps((row + offsets[g]).astype(np.int32), (column + offsets[h]).astype(np.int32), index))
    return _concatenate(pieces)


def _strongest(
    table: sparse.csr_matrix, most: int
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]:
    """Row, column and Jaccard index of the cells of one table; of more than `most` those above the strongest left out.

    Cells with equal indices stay or go together, so that nothing depends on the names of clusters.
    """
    rows, columns = margins(table)
    row = np.repeat(np.arange(rows.size), np.diff(table.indptr))
    index = table.data / (rows[row] + columns[table.indices] - table.data)
    if index.size <= most:
        return row, table.indices, index
    kept = index > np.partition(index, index.size - most - 1)[index.size - most - 1]
    return row[kept], table.indices[kept], index[kept]


def _concatenate(pieces: Iterable[Overlaps]) -> Overlaps:
    none = Overlaps(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))
    return Overlaps(*(np.concatenate(columns) for columns in zip(none, *pieces, strict=True)))


def cluster_graph(pieces: Iterable[Overlaps], present: NDArray[np.bool_]) -> sparse.csr_matrix:
    """The whole graph: float64 csr [C, C], symmetric, ones on the diagonal of clusters with images (`present`).

    `pieces` are the overlaps of all pairs of heads, in any order and division: the graph is the same.
    """
    n_clusters, edges = present.size, _concatenate(pieces)
    one_way = sparse.csr_matrix((edges.jaccard, (edges.row, edges.column)), shape=(n_clusters, n_clusters))
    graph = one_way + one_way.T.tocsr() + sparse.csr_matrix(sparse.diags_array(present.astype(np.float64)))
    graph.eliminate_zeros()  # the diagonal of empty clusters
    graph.sort_indices()
    return sparse.csr_matrix(graph)


def check_clusters(n_present: int, n_clusters: int) -> None:
    """Raise ConsensusSizeError if so many non-empty clusters of heads cannot be grouped into K."""
    if n_clusters < 2 or n_present < n_clusters:
        raise ConsensusSizeError(
            f"the heads have {n_present} non-empty clusters, from which {n_clusters} meta-clusters cannot be "
            f"formed; ask for 2 to {n_present} clusters, or use more heads"
        )


def meta_clusters(
    graph: sparse.csr_matrix, n_clusters: int, partition: Partitioner, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Group the clusters of all heads into K >= 2 meta-clusters by the Jaccard indices of `cluster_graph`.

    Returns int32[C] in [0, K), -1 for clusters without images. Raises ConsensusSizeError as `check_clusters`.
    """
    present = np.flatnonzero(graph.diagonal() > 0)
    check_clusters(present.size, n_clusters)
    meta = zero_cut(graph, n_clusters)
    if meta is None:
        meta = np.full(graph.indptr.size - 1, -1, dtype=np.int32)
        inner = graph if present.size == meta.size else graph[present][:, present]
        meta[present] = partition(inner, np.ones(present.size, dtype=np.int64), n_clusters, seed, imbalance=imbalance)
    return meta


def assign(
    labels: NDArray[np.integer], offsets: NDArray[np.int64], meta: NDArray[np.int32], n_clusters: int
) -> NDArray[np.int32]:
    """Give each image of a shard int[N, H] to the meta-cluster with its largest mean association.

    The association of an image with a meta-cluster is the share of the meta-cluster's clusters it belongs to. Returns
    int32[N] in [0, K), the first of equals.
    """
    kept = np.flatnonzero(meta >= 0)
    share = 1.0 / np.bincount(meta[kept], minlength=n_clusters)[meta[kept]]
    shares = sparse.csr_matrix((share, (kept, meta[kept])), shape=(meta.size, n_clusters))
    label = np.empty(labels.shape[0], dtype=np.int32)
    step = max(1, _BLOCK_ENTRIES // labels.shape[1])
    for start in range(0, labels.shape[0], step):
        block = slice(start, start + step)
        chosen, _ = first_largest(sparse.csr_matrix(incidence(labels[block], offsets) @ shares))
        label[block] = np.maximum(chosen, 0)
    return label
