"""Agreement of two labellings, all from contingency tables: ACC, NMI, ARI and the paper's ANMI.

A contingency table is a sum over images, so the tables of shards add up to the table of the whole: every score here
can be had without bringing the labels to one place. scikit-learn takes labels only; tests hold NMI and ARI to its own.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment

# Entries of labels handled at once where an int64 copy is needed: 32 MB, whatever N is.
_BLOCK_ENTRIES = 4_000_000
# A table of more cells per row of labels than this is counted by sorting: measured, both take as long at about 8.
_CELLS_PER_ROW = 8


def accuracy(labels: ArrayLike, truth: ArrayLike) -> float:
    """Share of images whose cluster is matched to their class, in [0, 1] (Hungarian method; paper 4.3, ACC).

    `labels` and `truth` are int[N] >= 0. The numbers of clusters and of classes may differ; what is left over counts as
    wrong. Raises ValueError for no image, different lengths or a negative label.
    """
    return scores(labels, truth)["acc"]


def scores(labels: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`table_scores` of labels int[N] and classes int[N]. Raises ValueError as `accuracy` does."""
    labels, truth = np.asarray(labels), np.asarray(truth)
    if labels.size == 0 or truth.size == 0:
        raise ValueError(f"{labels.size} labels and {truth.size} classes given; scores need at least one image")
    return table_scores(contingency(labels, truth, int(labels.max()) + 1, int(truth.max()) + 1))


def table_scores(table: ArrayLike) -> dict[str, float]:
    """ACC, NMI (arithmetic, scikit-learn's default) and ARI as `{"acc", "nmi", "ari"}` (paper 4.3).

    `table` is int[n_clusters, n_classes], of shards their sum; empty clusters and classes change nothing. Raises
    ValueError for a table that counts no image.
    """
    counts = np.asarray(table)
    information = nmi(counts, "arithmetic")
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {"acc": float(matched / counts.sum()), "nmi": information, "ari": _ari(counts.astype(np.float64))}


def _ari(counts: NDArray[np.float64]) -> float:
    """Adjusted Rand index, in [-0.5, 1]: 1.0 for identical partitions, about 0 for independent ones."""
    pairs = _pairs(counts.sum())
    both, in_a, in_b = (_pairs(n).sum() for n in (counts, counts.sum(axis=1), counts.sum(axis=0)))
    if in_a == in_b and both == in_a:  # identical partitions, the constant and the all-distinct one included
        return 1.0
    expected = in_a * in_b / pairs
    return float((both - expected) / ((in_a + in_b) / 2 - expected))


def _pairs(n: NDArray[np.float64]) -> NDArray[np.float64]:
    return n * (n - 1) / 2


def nmi(table: ArrayLike | sparse.csr_matrix, average: Literal["geometric", "arithmetic"] = "geometric") -> float:
    """Normalised mutual information of a contingency table int[n_a, n_b], dense or csr, in [0, 1].

    The entropies are averaged as in the paper (geometric; eq. 5, Strehl & Ghosh 2002) or as scikit-learn does by
    default. As there, it is 1.0 for one cluster on each side and 0.0 where only one side is constant. Raises ValueError
    for a table that counts no image.
    """
    counts = sparse.csr_matrix(table)  # only the cells that count: most are zero
    rows, columns = margins(counts)
    if rows.sum() == 0:
        raise ValueError("the cells of the contingency table count no image; give at least one")
    if (rows > 0).sum() == 1 and (columns > 0).sum() == 1:
        return 1.0
    of_rows, of_columns = entropy(rows), entropy(columns)
    scale = np.sqrt(of_rows * of_columns) if average == "geometric" else (of_rows + of_columns) / 2
    shared = information(counts, rows, columns)
    if shared <= np.finfo(np.float64).eps or scale <= 0:
        return 0.0
    return float(np.clip(shared / scale, 0.0, 1.0))


def pairwise_nmi(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """`nmi` of each two labellings, float64[H, H], of int[N, H] labels >= 0."""
    heads, sizes = labels.shape[1], (labels.max(axis=0) + 1).tolist()
    columns, pairs = np.ascontiguousarray(labels.T), np.eye(labels.shape[1])
    for one in range(heads):  # pairs of heads, not images: 1,225 for 50 heads
        for other in range(one):
            table = pair_counts(columns[one], columns[other], sizes[one], sizes[other])
            pairs[one, other] = pairs[other, one] = nmi(table)
    return pairs


def confusions(table: ArrayLike, most: int) -> list[tuple[int, int, int, int]]:
    """The largest errors of a clustering once each cluster is matched to a class (Hungarian, as for ACC).

    Args:
        table: int64[K, C] contingency table of clusters and true classes.
        most: errors wanted.

    Returns:
        (cluster, class it is matched to or -1, true class, images) by images, largest first; of equals the smaller
        cluster and class.
    """
    counts = np.asarray(table, np.int64)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched, wrong = np.full(len(counts), -1), counts.copy()
    matched[rows] = columns
    wrong[rows, columns] = 0
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    clusters, classes = np.unravel_index(order[wrong.ravel()[order] > 0], wrong.shape)
    images = wrong[clusters, classes]
    return list(zip(*(part.tolist() for part in (clusters, matched[clusters], classes, images)), strict=True))


def contingency(a: ArrayLike, b: ArrayLike, n_a: int, n_b: int) -> NDArray[np.int64]:
    """How often label i of `a` int[N] in [0, n_a) meets label j of `b` int[N] in [0, n_b): int64[n_a, n_b].

    Raises ValueError if the lengths differ or a label is outside its range.
    """
    a, b = _checked(a, n_a, "a"), _checked(b, n_b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a has {a.size} labels and b has {b.size}; give one label of each per image")
    counts = np.bincount(a * n_b + b, minlength=n_a * n_b)
    return counts.reshape(n_a, n_b).astype(np.int64, copy=False)


def head_contingency(
    labels: NDArray[np.integer],
    label: NDArray[np.integer],
    head_sizes: ArrayLike,
    n_clusters: int,
    weights: NDArray[np.int64] | None = None,
) -> list[sparse.csr_matrix]:
    """`pair_counts` of every head with one labelling int[N] in [0, n_clusters): int64 csr [head_sizes[h], n_clusters].

    Column h of `labels` int[N, H] is in [0, head_sizes[h]). Together the tables never have more than N H entries.
    """
    pairs = zip(labels.T, np.asarray(head_sizes).tolist(), strict=True)
    return [pair_counts(column, label, size, n_clusters, weights) for column, size in pairs]


def pair_counts(
    a: NDArray[np.integer], b: NDArray[np.integer], n_a: int, n_b: int, weights: NDArray[np.int64] | None = None
) -> sparse.csr_matrix:
    """`contingency` without its checks and without its zeros: for tables of which many are made.

    `weights` int64[N] >= 0 are the images that each row stands for, one each by default. Returns int64 csr [n_a, n_b]
    of the pairs that occur, columns ascending. Memory beyond it is bounded whatever N is, unless the table has many
    cells and few rows.
    """
    n_rows, cells = len(a), n_a * n_b
    if cells <= _CELLS_PER_ROW * n_rows:
        total = np.zeros(cells, dtype=np.int64)
        for start in range(0, n_rows, _BLOCK_ENTRIES):
            block = slice(start, start + _BLOCK_ENTRIES)
            repeated = None if weights is None else weights[block]
            # Float sums of whole numbers are exact below 2**53.
            total += np.bincount(_keys(a[block], b[block], n_b), repeated, cells).astype(np.int64, copy=False)
        cell = np.flatnonzero(total)
        count = total[cell]
    elif weights is None:
        cell, count = np.unique(_keys(a, b, n_b), return_counts=True)
    else:
        cell, index = np.unique(_keys(a, b, n_b), return_inverse=True)
        count = np.bincount(index, weights=weights).astype(np.int64)
    starts = np.searchsorted(cell, np.arange(n_a + 1) * n_b)
    columns = (cell % n_b).astype(np.int32)
    return sparse.csr_matrix((count.astype(np.int64, copy=False), columns, starts), shape=(n_a, n_b))


def _keys(a: NDArray[np.integer], b: NDArray[np.integer], n_b: int) -> NDArray[np.int64]:
    """Number of the cell of each row, without an int64 copy of either side."""
    keys = np.multiply(a, n_b, dtype=np.int64)
    keys += b
    return keys


def margins(table: sparse.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums over the columns, int64[n_a], and over the rows, int64[n_b], of a csr table of counts."""
    _, n_columns = table.get_shape()
    rows = np.diff(np.concatenate([[0], np.cumsum(table.data)])[table.indptr])
    return rows, np.bincount(table.indices, weights=table.data, minlength=n_columns).astype(rows.dtype)


def entropy(counts: NDArray[np.integer]) -> float:
    """Entropy in nats of counts, at least one of them > 0."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def information(table: sparse.csr_matrix, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> float:
    """Mutual information in nats of a csr table of counts > 0 with these `margins`."""
    counts, total = table.data, rows.sum()
    expected = np.log(np.maximum(rows, 1)).repeat(np.diff(table.indptr)) + np.log(np.maximum(columns, 1))[table.indices]
    return float((counts * (np.log(counts) + np.log(total) - expected)).sum() / total)


def _checked(values: ArrayLike, n: int, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; give integers of shape [N]")
    if array.size and (array.min() < 0 or array.max() >= n):
        raise ValueError(
            f"{name} spans {array.min()} to {array.max()}, but must stay within 0 and {n - 1}; "
            f"relabel it or raise the number of labels"
        )
    return array.astype(np.int64, copy=False)
