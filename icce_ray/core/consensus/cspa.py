"""CSPA: cut the graph of images, weighted by how many heads put two images together (Strehl & Ghosh 2002, 3.2)."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import Collapsed, bipartite, check_problem, incidence
from icce_ray.core.consensus.partitioning import ConsensusSizeError, GraphPartitioner, zero_cut

MAX_ROWS = 20_000
"""Distinct rows of labels served: the work grows with their square."""
MAX_EDGES = 30_000_000
"""Entries of the similarity matrix handed to the partitioner; 20,000 noisy rows took 15 s and 1.4 GB on one core."""
_BLOCK_ROWS = 512


def cspa(
    rows: Collapsed,
    n_clusters: int,
    partition: GraphPartitioner,
    seed: int,
    *,
    imbalance: float = 0.05,
    max_rows: int = MAX_ROWS,
    max_edges: int = MAX_EDGES,
) -> NDArray[np.int32]:
    """Consensus by the co-association graph.

    The vertices are the distinct rows, weighted by their multiplicity; an edge weighs the sum of the similarities
    of the images behind its ends, which is the graph of images with indistinguishable images contracted.
    Where noise makes almost every two images share some head, the weakest similarities are left out until the
    graph fits `max_edges`: they are the chance level and say nothing.

    Args:
        rows: from `collapse`.
        n_clusters: K >= 2.
        partition: cuts the graph.
        seed: for the partitioner.
        imbalance: passed to the partitioner.
        max_rows: limit of distinct rows.
        max_edges: limit of the entries of the similarity matrix.

    Returns:
        int32[U], consensus label of each distinct row, in [0, K).

    Raises:
        ConsensusSizeError: too many rows, fewer images than K, or K < 2.
    """
    check_problem(rows.n_images, n_clusters)
    n_rows, n_heads = rows.labels.shape
    check_cspa(n_rows, n_heads, max_rows)
    if n_rows <= n_clusters:
        return np.arange(n_rows, dtype=np.int32)
    members = incidence(rows.labels, rows.offsets)
    parts = zero_cut(bipartite(members), n_clusters)
    if parts is not None:
        return parts[:n_rows]
    graph = similarity(members, rows.counts, max_edges)
    return partition(graph, rows.counts, n_clusters, seed, imbalance=imbalance)


def check_cspa(n_rows: int, n_heads: int, max_rows: int = MAX_ROWS) -> None:
    """Raise ConsensusSizeError if distinct rows exceed the limit; the number of heads does not matter."""
    if n_rows > max_rows:
        raise ConsensusSizeError(
            f"CSPA compares all pairs of rows: {n_rows} distinct rows exceed its limit of {max_rows}; use MCLA, whose "
            f"graph does not grow with the number of images, or raise max_rows"
        )


def similarity(members: sparse.csr_matrix, counts: NDArray[np.int64], max_entries: int) -> sparse.csr_matrix:
    """The co-association graph of distinct rows, its weakest levels left out where it would not fit.

    Args:
        members: float64 csr [U, C] of `incidence`, H ones a row.
        counts: int64[U], multiplicities.
        max_entries: entries to stay within, up to the error of a sample of the rows.

    Returns:
        float64 csr [U, U], symmetric, no diagonal: (heads that agree) x (images of one end) x (images of the other).

    Raises:
        ConsensusSizeError: not even the strongest level fits.
    """
    n_rows, weights = counts.size, counts.astype(np.float64)
    columns = members.T.tocsr()
    level = _weakest_level(members, columns, max_entries)
    pieces = []
    for start in range(0, n_rows, _BLOCK_ROWS):
        agree = members[start : start + _BLOCK_ROWS] @ columns
        row = np.repeat(np.arange(agree.shape[0]), np.diff(agree.indptr))
        kept = (agree.data >= level) & (agree.indices != row + start)
        row, column = row[kept], agree.indices[kept]
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=agree.shape[0]))])
        data = agree.data[kept] * weights[row + start] * weights[column]
        pieces.append(sparse.csr_matrix((data, column, starts), shape=agree.shape))
    return sparse.csr_matrix(sparse.vstack(pieces, format="csr"))


def _weakest_level(members: sparse.csr_matrix, columns: sparse.csr_matrix, max_entries: int) -> int:
    """Fewest agreeing heads, at least 1, whose pairs fit `max_entries`, judged on a sample of rows."""
    n_rows, n_heads = members.indptr.size - 1, int(members.indptr[1])
    sample = np.linspace(0, n_rows - 1, min(n_rows, 2 * _BLOCK_ROWS)).astype(np.int64)
    agree = members[sample] @ columns
    # Rows are distinct: on all heads a row agrees with itself only, which is no edge.
    pairs = np.bincount(agree.data.astype(np.int64), minlength=n_heads + 1)[:n_heads]
    entries = np.cumsum(pairs[::-1])[::-1] * (n_rows / sample.size)  # entries[t]: at least t heads agree
    fits = np.flatnonzero(entries[1:] <= max_entries)
    if fits.size == 0:
        raise ConsensusSizeError(
            f"CSPA's {n_rows} distinct rows have about {int(entries[-1])} pairs that differ in one head only, more "
            f"than its limit of {max_entries} edges; use MCLA or HBGF, or raise max_edges"
        )
    return int(fits[0]) + 1
