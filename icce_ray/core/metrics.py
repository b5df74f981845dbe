"""Agreement of two labellings, all from contingency tables: ACC, NMI, ARI and the paper's ANMI.

A contingency table is a sum over images, so a shard's table plus another shard's table is the table of both:
every score here can be had without bringing the labels to one place.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

# Entries of labels handled at once where an int64 copy is needed: 32 MB, whatever N is.
_BLOCK_ENTRIES = 4_000_000


def contingency(a: ArrayLike, b: ArrayLike, n_a: int, n_b: int) -> NDArray[np.int64]:
    """Count how often label i of `a` meets label j of `b`.

    Args:
        a: int[N], values in [0, n_a).
        b: int[N], values in [0, n_b).
        n_a: number of labels of `a`.
        n_b: number of labels of `b`.

    Returns:
        int64[n_a, n_b]; tables of shards add up to the table of the whole.

    Raises:
        ValueError: the lengths differ, or a label is outside its range.
    """
    a, b = _checked(a, n_a, "a"), _checked(b, n_b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a has {a.size} labels and b has {b.size}; give one label of each per image")
    counts = np.bincount(a * n_b + b, minlength=n_a * n_b)
    return counts.reshape(n_a, n_b).astype(np.int64, copy=False)


def matching(labels: ArrayLike, truth: ArrayLike) -> NDArray[np.int64]:
    """The one-to-one assignment of clusters to classes that agrees most (Hungarian method; paper 4.3).

    Args:
        labels: int[N] >= 0, cluster of each image.
        truth: int[N] >= 0, class of each image.

    Returns:
        int64[n_clusters]: the class of each cluster, -1 where there are more clusters than classes.

    Raises:
        ValueError: empty input, different lengths or a negative label.
    """
    return _match(_table(labels, truth))


def accuracy(labels: ArrayLike, truth: ArrayLike) -> float:
    """Share of images whose cluster is matched to their class, in [0, 1] (paper 4.3, ACC).

    The numbers of clusters and of classes may differ; what is left over counts as wrong.
    Arguments and errors as for `matching`.
    """
    return _accuracy(_table(labels, truth))


def nmi(table: ArrayLike, average: Literal["geometric", "arithmetic"] = "geometric") -> float:
    """Normalised mutual information of a contingency table, in [0, 1].

    Args:
        table: int[n_a, n_b] counts.
        average: how the two entropies are averaged: "geometric" is the paper's (eq. 5, Strehl & Ghosh 2002),
            "arithmetic" is scikit-learn's default.

    Returns:
        1.0 for one cluster on each side, 0.0 where only one side is constant, as scikit-learn.

    Raises:
        ValueError: an empty table or an unknown average.
    """
    return float(_nmi_of_heads(np.asarray(table)[None], average)[0])


def ari(table: ArrayLike) -> float:
    """Adjusted Rand index of a contingency table, in [-0.5, 1] (Hubert & Arabie 1985).

    Args:
        table: int[n_a, n_b] counts.

    Returns:
        1.0 for identical partitions, about 0 for independent ones.

    Raises:
        ValueError: an empty table.
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    if total == 0:
        raise ValueError("the contingency table counts no image; give at least one")
    pairs = _pairs(total)
    both, in_a, in_b = (_pairs(n).sum() for n in (counts, counts.sum(axis=1), counts.sum(axis=0)))
    if in_a == in_b and both == in_a:  # identical partitions, the constant and the all-distinct one included
        return 1.0
    expected = in_a * in_b / pairs
    return float((both - expected) / ((in_a + in_b) / 2 - expected))


def scores(labels: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """ACC, NMI (arithmetic, scikit-learn's default) and ARI as `{"acc", "nmi", "ari"}` (paper 4.3).

    Arguments and errors as for `matching`.
    """
    return table_scores(_table(labels, truth))


def table_scores(table: ArrayLike) -> dict[str, float]:
    """`scores` of a contingency table, clusters by classes: of the sum of the tables of shards, for instance.

    Args:
        table: int[n_clusters, n_classes] counts; empty clusters and classes change nothing.

    Raises:
        ValueError: an empty table.
    """
    counts = np.asarray(table)
    information = nmi(counts, "arithmetic")
    return {"acc": _accuracy(counts), "nmi": information, "ari": ari(counts)}


def head_contingency(
    labels: ArrayLike,
    label: ArrayLike,
    head_sizes: ArrayLike,
    n_clusters: int,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Contingency tables of one labelling against every head at once.

    Args:
        labels: int[N, H], labels of the heads, column h in [0, head_sizes[h]).
        label: int[N], the labelling compared with them, in [0, n_clusters).
        head_sizes: int[H], clusters of each head.
        n_clusters: K.
        weights: int64[N] >= 0, how many images each row stands for; one each by default.

    Returns:
        int64[H, max(head_sizes), K]; sums over shards are the tables of the whole.

    Raises:
        ValueError: shapes that do not fit or labels out of range.
    """
    labels, sizes = np.asarray(labels), np.asarray(head_sizes, dtype=np.int64)
    label = _checked(label, n_clusters, "label")
    if labels.ndim != 2 or labels.shape != (label.size, sizes.size):
        raise ValueError(
            f"labels have shape {labels.shape}, but {label.size} images and {sizes.size} heads were announced; "
            f"give [N, H]"
        )
    if labels.size and ((labels < 0).any() or (labels >= sizes).any()):
        raise ValueError(
            f"head labels span {labels.min()} to {labels.max()}, but every column must stay within 0 and its head "
            f"size ({sizes.min()} to {sizes.max()}) - 1; pass the sizes of the heads that made these labels"
        )
    n_heads, largest = sizes.size, int(sizes.max(initial=0))
    base = np.arange(n_heads) * largest
    step = max(1, _BLOCK_ENTRIES // max(1, n_heads))
    tables = np.zeros(n_heads * largest * n_clusters, dtype=np.int64)
    for start in range(0, label.size, step):
        rows = slice(start, start + step)
        cells = (labels[rows] + base) * n_clusters + label[rows, None]
        repeated = None if weights is None else np.repeat(weights[rows], n_heads)
        counts = np.bincount(cells.ravel(), weights=repeated, minlength=tables.size)
        tables += counts.astype(np.int64, copy=False)  # float sums of integers are exact below 2**53
    return tables.reshape(n_heads, largest, n_clusters)


def anmi(tables: ArrayLike) -> float:
    """Average NMI of a labelling with the heads, the objective of the consensus (paper eq. 4-7).

    `ANMI(l) = 1/H sum_h I(l; l^h) / sqrt(H(l) H(l^h))`.

    Args:
        tables: int64[H, Kmax, K] from `head_contingency`.

    Returns:
        The mean over heads, in [0, 1].

    Raises:
        ValueError: no head, or a head whose table counts no image.
    """
    return float(_nmi_of_heads(np.asarray(tables), "geometric").mean())


def _nmi_of_heads(tables: NDArray[np.int64], average: str) -> NDArray[np.float64]:
    """float64[H]: NMI of every table [Kmax, K]. Only the non-zero cells are looked at: most are zero."""
    if average not in ("geometric", "arithmetic"):
        raise ValueError(f"average is {average!r}; choose 'geometric' or 'arithmetic'")
    if tables.ndim != 3 or tables.shape[0] == 0:
        raise ValueError(f"tables have shape {tables.shape}; give one table per head, [H, Kmax, K], at least one")
    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    totals = rows.sum(axis=1)
    if (totals == 0).any():
        raise ValueError(f"{int((totals == 0).sum())} of {totals.size} tables count no image; give at least one")
    head, i, j = np.nonzero(tables)
    counts = tables[head, i, j].astype(np.float64)
    ratio = np.log(counts) + np.log(totals[head]) - np.log(rows[head, i]) - np.log(columns[head, j])
    information = np.bincount(head, weights=counts * ratio, minlength=totals.size) / totals
    h_rows, h_columns = _entropy(rows, totals), _entropy(columns, totals)
    if average == "geometric":
        scale = np.sqrt(h_rows * h_columns)
    else:
        scale = (h_rows + h_columns) / 2
    one_cluster = ((rows > 0).sum(axis=1) == 1) & ((columns > 0).sum(axis=1) == 1)
    informative = information > np.finfo(np.float64).eps
    values = np.divide(information, scale, out=np.zeros_like(information), where=informative & (scale > 0))
    return np.where(one_cluster, 1.0, np.clip(values, 0.0, 1.0))


def _entropy(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[H]: entropy in nats of each row of counts [H, n]."""
    p = counts / totals[:, None]
    return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1)


def _match(table: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, columns = linear_sum_assignment(table, maximize=True)
    mapping = np.full(table.shape[0], -1, dtype=np.int64)
    mapping[rows] = columns
    return mapping


def _accuracy(table: NDArray[np.int64]) -> float:
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def _table(labels: ArrayLike, truth: ArrayLike) -> NDArray[np.int64]:
    labels, truth = np.asarray(labels), np.asarray(truth)
    if labels.size == 0 or truth.size == 0:
        raise ValueError(f"{labels.size} labels and {truth.size} classes given; scores need at least one image")
    return contingency(labels, truth, int(labels.max()) + 1, int(truth.max()) + 1)


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


def _pairs(n: NDArray[np.float64]) -> NDArray[np.float64]:
    return n * (n - 1) / 2
