"""The graph that MCLA cuts: clusters of all heads, edges by the Jaccard index of two (Strehl & Ghosh 2002, 3.4).

Two clusters of one head share no image, so the graph falls into one table for each pair of heads. A table needs the
labels of two heads and nothing else, and no cell of it is kept beyond its share of the limit: neither the number of
images nor their noise makes the graph larger.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.metrics import margins, pair_counts

MAX_EDGES = 20_000_000
"""Entries of the graph of clusters, both directions; see jobs/bench/RESULTS.md for what a larger graph changes."""


class Overlaps(NamedTuple):
    """Jaccard indices of clusters of different heads, each pair once: the part of the graph above its diagonal."""

    row: NDArray[np.int32]
    """int32[E], cluster of the head that comes first, numbered as by `head_offsets`."""
    column: NDArray[np.int32]
    """int32[E], cluster of the other head."""
    jaccard: NDArray[np.float64]
    """float64[E] in (0, 1]."""


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
    found = []
    for g, h in heads:
        table = pair_counts(columns[g], columns[h], sizes[g], sizes[h], counts)
        row, column, index = _strongest(table, int(share * sizes[g] * sizes[h]))
        found.append(Overlaps((row + offsets[g]).astype(np.int32), (column + offsets[h]).astype(np.int32), index))
    return joined(found)


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


def joined(pieces: Iterable[Overlaps]) -> Overlaps:
    """Overlaps of several sets of pairs of heads as one; of none at all without an entry."""
    none = Overlaps(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))
    return Overlaps(*(np.concatenate(columns) for columns in zip(none, *pieces, strict=True)))


def cluster_graph(pieces: Iterable[Overlaps], present: NDArray[np.bool_]) -> sparse.csr_matrix:
    """The whole graph: float64 csr [C, C], symmetric, ones on the diagonal of clusters with images.

    Args:
        pieces: overlaps of all pairs of heads, in any order and division: the graph is the same.
        present: bool[C], whether the cluster has images.
    """
    n_clusters, found = present.size, joined(pieces)
    one_way = sparse.csr_matrix((found.jaccard, (found.row, found.column)), shape=(n_clusters, n_clusters))
    graph = one_way + one_way.T.tocsr() + sparse.csr_matrix(sparse.diags_array(present.astype(np.float64)))
    graph.eliminate_zeros()  # the diagonal of empty clusters
    graph.sort_indices()
    return sparse.csr_matrix(graph)


def all_pairs(n_heads: int) -> list[tuple[int, int]]:
    """Every two heads (g, h), g < h."""
    return [(g, h) for g in range(n_heads) for h in range(g + 1, n_heads)]
