"""CSPA, HGPA and HBGF: graphs whose vertices are the distinct rows of head labels, cut into K parts.

Rows weigh the images behind them, so the balance of the parts is one of images. What is already separate needs no cut:
as few rows as clusters, or rows that fall into K groups that share no cluster of any head. Each method returns the
label of each distinct row, int32[U] in [0, K), and raises ConsensusSizeError for what it cannot serve.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import (
    Collapsed,
    ConsensusSizeError,
    Partitioner,
    check_problem,
    incidence,
    zero_cut,
)

MAX_CSPA_ROWS = 20_000
"""Distinct rows of labels that CSPA serves: its work grows with their square."""
MAX_CSPA_EDGES = 30_000_000
"""Entries of CSPA's graph; 20,000 noisy rows took 15 s and 1.4 GB on one core."""
MAX_HGPA_PINS = 1_000_000
"""Distinct rows x heads that HGPA serves; one million took 18 s on one core for K = 10, more for a larger K."""
MAX_HBGF_EDGES = 10_000_000
"""Distinct rows x heads that HBGF serves; 10 million took 16 s and 1.7 GB on one core."""
_BLOCK_ROWS = 512


def check_rows(method: str, n_rows: int, n_heads: int) -> None:
    """Raise ConsensusSizeError, before any work, for more distinct rows than a method serves; MCLA serves any."""
    pins = f"{n_rows} x {n_heads}"
    limits = {
        "cspa": (n_rows, MAX_CSPA_ROWS, f"CSPA compares all pairs of rows: {n_rows} distinct rows exceed"),
        "hgpa": (n_rows * n_heads, MAX_HGPA_PINS, f"HGPA has a pin for every distinct row and head: {pins} exceed"),
        "hbgf": (n_rows * n_heads, MAX_HBGF_EDGES, f"HBGF has an edge for every distinct row and head: {pins} exceed"),
    }
    if method in limits:
        size, limit, text = limits[method]
        if size > limit:
            raise ConsensusSizeError(
                f"{text} its limit of {limit}; use MCLA, whose graph does not grow with the number of images"
            )


def cspa(
    rows: Collapsed, n_clusters: int, partition: Partitioner, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Cut the co-association graph: two rows are joined by the heads that agree on them (Strehl & Ghosh 2002, 3.2).

    An edge weighs the sum of the similarities of the images behind its ends, which is the graph of images with
    indistinguishable images contracted. See `similarity` for what is left out of a graph that is too large.
    """
    label = _without_cut("cspa", rows, n_clusters)
    if label is None:
        graph = similarity(incidence(rows.labels, rows.offsets), rows.counts)
        label = partition(graph, rows.counts, n_clusters, seed, imbalance=imbalance)
    return label


def hgpa(
    rows: Collapsed, n_clusters: int, partition: Partitioner, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Cut the hypergraph whose hyperedges are the clusters of all heads, of one weight (Strehl & Ghosh 2002, 3.3)."""
    label = _without_cut("hgpa", rows, n_clusters)
    if label is None:
        edges = incidence(rows.labels, rows.offsets).T.tocsr()
        label = partition(edges[np.diff(edges.indptr) > 0], rows.counts, n_clusters, seed, imbalance=imbalance)
    return label


def hbgf(
    rows: Collapsed, n_clusters: int, partition: Partitioner, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Cut the bipartite graph of rows and head clusters, both at once (Fern & Brodley, ICML 2004).

    Edges weigh the images of their row; clusters weigh nothing.
    """
    label = _without_cut("hbgf", rows, n_clusters)
    if label is None:
        weights = sparse.diags_array(rows.counts.astype(np.float64))
        graph = _bipartite(sparse.csr_matrix(weights @ incidence(rows.labels, rows.offsets)))
        vertices = np.concatenate([rows.counts, np.zeros(rows.offsets[-1], dtype=np.int64)])
        label = partition(graph, vertices, n_clusters, seed, imbalance=imbalance)[: rows.counts.size]
    return label


def _without_cut(method: str, rows: Collapsed, n_clusters: int) -> NDArray[np.int32] | None:
    """The labels where none is needed; None where the graph must be cut. Raises ConsensusSizeError."""
    check_problem(rows.n_images, n_clusters)
    n_rows, n_heads = rows.labels.shape
    check_rows(method, n_rows, n_heads)
    if n_rows <= n_clusters:
        return np.arange(n_rows, dtype=np.int32)
    parts = zero_cut(_bipartite(incidence(rows.labels, rows.offsets)), n_clusters)
    return None if parts is None else parts[:n_rows]


def _bipartite(members: sparse.csr_matrix) -> sparse.csr_matrix:
    """Graph of rows and clusters: csr [U + C, U + C] from incidence [U, C], rows first."""
    return sparse.csr_matrix(sparse.block_array([[None, members], [members.T, None]], format="csr"))


def similarity(
    members: sparse.csr_matrix, counts: NDArray[np.int64], max_entries: int = MAX_CSPA_EDGES
) -> sparse.csr_matrix:
    """The co-association graph of distinct rows, its weakest levels left out where it would not fit.

    Where noise makes almost every two images share some head, the weakest similarities are the chance level and say
    nothing: the graph stays within `max_entries`, up to the error of a sample of the rows.

    `members` is csr [U, C] of `incidence`, `counts` int64[U] are the images behind each row. Returns float64 csr
    [U, U], symmetric, no diagonal: (heads that agree) x (images of one end) x (images of the other). Raises
    ConsensusSizeError if not even the strongest level fits.
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
            f"than its limit of {max_entries} edges; use MCLA or HBGF"
        )
    return int(fits[0]) + 1
