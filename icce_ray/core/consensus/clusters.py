"""What all methods share: the clusters of all heads as one vocabulary, identical rows collapsed, what cuts a graph.

Head h has K_h clusters; cluster a of head h is number `offsets[h] + a` among all C = sum K_h (Strehl & Ghosh
2002 call them the hyperedges).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


class ConsensusSizeError(ValueError):
    """A problem too large, too small or too degenerate for a method; says value, limit and remedy."""


def head_offsets(head_sizes: ArrayLike) -> NDArray[np.int64]:
    """Number of the first cluster of every head, and C last: int64[H + 1] from int[H] sizes."""
    return np.concatenate([[0], np.cumsum(np.asarray(head_sizes, dtype=np.int64))])


def check_labels(labels: ArrayLike) -> NDArray[np.int64]:
    """The sizes of the heads, int64[H]: the largest label of each column plus one.

    Raises:
        ValueError: not integers of shape [N, H] with N, H >= 1, or negative labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or 0 in labels.shape or labels.dtype.kind not in "iu":
        raise ValueError(f"head labels have shape {labels.shape}, dtype {labels.dtype}; give integers of shape [N, H]")
    if labels.min() < 0:
        raise ValueError(f"head labels go down to {labels.min()}; every image needs a label >= 0 from every head")
    return labels.max(axis=0).astype(np.int64) + 1


def check_problem(n_images: int, n_clusters: int) -> None:
    """Raise ConsensusSizeError for fewer than two clusters, or fewer images than clusters."""
    if n_clusters < 2:
        raise ConsensusSizeError(f"{n_clusters} consensus clusters asked for; at least 2 are needed")
    if n_images < n_clusters:
        raise ConsensusSizeError(
            f"{n_images} images cannot fill {n_clusters} clusters; give at least {n_clusters} images or lower the "
            f"number of clusters"
        )


def incidence(labels: NDArray[np.integer], offsets: NDArray[np.int64]) -> sparse.csr_matrix:
    """Membership of images in the clusters of all heads: float64 csr [N, C] of ones, H per row."""
    n_images, n_heads = labels.shape
    columns = (labels + offsets[:-1]).ravel()
    starts = np.arange(n_images + 1, dtype=np.int64) * n_heads
    return sparse.csr_matrix((np.ones(columns.size), columns, starts), shape=(n_images, int(offsets[-1])))


def present(labels: NDArray[np.integer], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which head clusters have images: bool[C] from int[N, H]."""
    seen = np.zeros(int(offsets[-1]), dtype=bool)
    for start, column in zip(offsets[:-1].tolist(), labels.T, strict=True):
        seen[start + np.unique(column).astype(np.int64)] = True
    return seen


def first_largest(values: sparse.csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.generic]]:
    """Column of the largest stored value of each row, the lowest of equals, and that value.

    `values` is csr [n, m], columns in any order within a row. Rows without an entry have column -1 and value 0.
    """
    lengths = np.diff(values.indptr)
    filled = np.flatnonzero(lengths > 0)
    column = np.full(lengths.size, -1, dtype=np.int32)
    largest = np.zeros(lengths.size, dtype=values.dtype)
    if filled.size:
        starts = values.indptr[filled]
        largest[filled] = np.maximum.reduceat(values.data, starts)
        equal = values.data == np.repeat(largest, lengths)
        column[filled] = np.minimum.reduceat(np.where(equal, values.indices, np.iinfo(np.int32).max), starts)
    return column, largest


@dataclass(frozen=True)
class Collapsed:
    """Distinct rows of head labels; images with equal rows cannot be told apart, so one vertex serves them."""

    labels: NDArray[np.integer]
    """int[U, H], the distinct rows."""
    counts: NDArray[np.int64]
    """int64[U], images behind each row."""
    index: NDArray[np.int64]
    """int64[N], the row of each image: `labels[index]` are the labels given."""
    head_sizes: NDArray[np.int64]
    """int64[H], clusters of each head."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[H + 1], `head_offsets` of the sizes."""
        return head_offsets(self.head_sizes)

    @property
    def n_images(self) -> int:
        """Images behind all rows."""
        return int(self.counts.sum())


def row_keys(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """A 64-bit hash of each row of head labels int[N, H]: int64[N], the same in every shard."""
    factors = np.random.default_rng(0).integers(1, 2**63, size=labels.shape[1], dtype=np.int64) | 1
    # One column at a time: an [N, H] int64 temporary would be the largest array of the whole stage.
    keys = np.zeros(labels.shape[0], dtype=np.int64)
    for column, factor in zip(labels.T, factors, strict=True):
        keys += column * factor
    return keys


def collapse(labels: NDArray[np.integer], counts: NDArray[np.int64] | None = None) -> Collapsed:
    """Merge identical rows of int[N, H], each of `counts` int64[N] images (one by default).

    Rows are compared by a 64-bit hash, which is many times faster than sorting rows, and the result is checked
    against the input, so it is exact. The order of the rows depends on their content only, so that collapsing the
    concatenated results of shards collapses the whole. Raises ValueError as `check_labels`.
    """
    sizes = check_labels(labels)
    _, first, index = np.unique(row_keys(labels), return_index=True, return_inverse=True)
    rows = labels[first]
    if not np.array_equal(rows[index], labels):  # two rows with one hash: about 1 in 10^7 for a million rows
        rows, index = np.unique(labels, axis=0, return_inverse=True)
    weights = None if counts is None else counts.astype(np.float64)
    totals = np.bincount(index, weights=weights, minlength=rows.shape[0]).astype(np.int64)
    return Collapsed(rows, totals, index, sizes)


class Partitioner(Protocol):
    """Cuts a graph or a hypergraph into parts of about equal vertex weight, with little weight between them.

    `edges` is the symmetric matrix of a graph, float csr [n, n], whose diagonal is ignored; or the hyperedges, csr
    [E, n] with an entry for each vertex of a hyperedge, all of weight one. `vertex_weights` are int[n] >= 0, and
    `imbalance` is how far, relatively, a part may exceed the mean weight (0.05: by 5 %). Returns the part of each
    vertex, int32[n] in [0, n_parts): the same seed and input give the same parts.
    """

    def __call__(
        self,
        edges: sparse.csr_matrix,
        vertex_weights: NDArray[np.int64],
        n_parts: int,
        seed: int,
        *,
        imbalance: float,
    ) -> NDArray[np.int32]:
        """Cut it."""
        ...


class Partitioners(NamedTuple):
    """What cuts the graphs of CSPA, MCLA and HBGF, and what cuts the hypergraph of HGPA."""

    graph: Partitioner
    hypergraph: Partitioner


def zero_cut(graph: sparse.csr_matrix, n_parts: int) -> NDArray[np.int32] | None:
    """The parts int32[n] of a symmetric graph csr [n, n] that falls into exactly `n_parts` pieces by itself, else None.

    Its connected components cut no edge: no partition is better, however unequal their sizes are. A balanced
    partitioner would break the large ones. Parts are numbered by first appearance; a vertex whose row has no entry
    (a cluster without images) belongs to none, -1.
    """
    present = np.flatnonzero(np.diff(graph.indptr) > 0)
    whole = present.size == graph.indptr.size - 1
    n_components, label = connected_components(graph if whole else graph[present][:, present], directed=False)
    if n_components != n_parts:
        return None
    parts = np.full(graph.indptr.size - 1, -1, dtype=np.int32)
    parts[present] = label
    return parts
