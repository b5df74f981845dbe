"""What one labelling and the heads have to do with each other, counted head by head: score, agreement, splits.

A head's part comes from the contingency table of its clusters with the labelling, for all images; the parts of heads
that were counted in different places are put side by side.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import first_largest
from icce_ray.core.metrics import margins, nmi


@dataclass(frozen=True)
class Tally:
    """A labelling against H heads; nothing in it grows with the number of images."""

    sizes: NDArray[np.int64]
    """int64[K], images of each label."""
    nmi: NDArray[np.float64]
    """float64[H], normalised mutual information with each head."""
    mapping: list[NDArray[np.int32]]
    """H x int32[K_h], the label that most images of each head cluster have; -1 for clusters without images."""
    split: NDArray[np.int64]
    """int64[H, K], images of the smaller half where one cluster of the head divides the label most evenly."""
    split_cluster: NDArray[np.int32]
    """int32[H, K], that cluster, the first of equals."""

    @property
    def anmi(self) -> float:
        """Average NMI with the heads (paper eq. 7)."""
        return float(self.nmi.mean())

    @property
    def used(self) -> int:
        """Labels that some image has."""
        return int((self.sizes > 0).sum())


def tally(tables: Sequence[sparse.csr_matrix]) -> Tally:
    """Everything above from the tables [K_h, K] of some heads (`metrics.head_contingency`) with one labelling."""
    sizes = margins(tables[0])[1]
    halves = [most_even_split(table, sizes) for table in tables]
    return Tally(
        sizes=sizes,
        nmi=np.array([nmi(table) for table in tables]),
        mapping=[first_largest(table)[0] for table in tables],
        split=np.stack([images for images, _ in halves]),
        split_cluster=np.stack([cluster for _, cluster in halves]),
    )


def concatenate_tallies(parts: Iterable[Tally]) -> Tally:
    """Tallies of one labelling with several sets of heads as one, the heads in this order."""
    parts = list(parts)
    return Tally(
        sizes=parts[0].sizes,
        nmi=np.concatenate([part.nmi for part in parts]),
        mapping=[mapping for part in parts for mapping in part.mapping],
        split=np.concatenate([part.split for part in parts]),
        split_cluster=np.concatenate([part.split_cluster for part in parts]),
    )


def improves(after: Tally, before: Tally) -> bool:
    """Whether a vote is kept: ANMI rises and no label in use falls out of use."""
    return after.used >= before.used and after.anmi > before.anmi + 1e-9


def agreeing(
    labels: NDArray[np.integer], label: NDArray[np.integer], mapping: Sequence[NDArray[np.int32]]
) -> NDArray[np.int64]:
    """Number of heads whose cluster stands for the image's consensus label, int64[N] in [0, H].

    `labels` int[N, H] and `label` int[N] are of one shard, `mapping` of the `Tally` of all.
    """
    agreed = np.zeros(labels.shape[0], dtype=np.int64)
    for of_head, column in zip(mapping, labels.T, strict=True):
        agreed += of_head[column] == label
    return agreed


def division_moments(
    labels: NDArray[np.integer],
    label: NDArray[np.integer],
    chosen: NDArray[np.integer],
    split_cluster: NDArray[np.int32],
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """For how many images of a label two heads both have the cluster that divides it most evenly.

    `labels` int[N, H] and `label` int[N] are of one shard, `chosen` int[L] the labels asked for, `split_cluster` of the
    `Tally` of all shards, `counts` int64[N] the images of each row. Returns float64[L, H, H], to be summed over shards;
    the diagonal counts the images of one head's cluster.
    """
    place = np.full(split_cluster.shape[1], -1)
    place[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(place[label] >= 0)
    inside = (labels[rows] == split_cluster.T[label[rows]]).astype(np.float64)
    weights = np.ones(len(rows)) if counts is None else counts[rows].astype(np.float64)
    members = sparse.csr_matrix((weights, (place[label[rows]], np.arange(len(rows)))), shape=(len(chosen), len(rows)))
    # A head at a time, as everywhere here: all pairs at once would be H times the labels.
    return np.stack([members @ (inside * column[:, None]) for column in inside.T], axis=1)


class Split(NamedTuple):
    """Images of `label` that `head` puts in `cluster` are to become `unused`."""

    head: int
    cluster: int
    label: int
    unused: int


def most_even_split(table: sparse.csr_matrix, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """How evenly one head can divide each label: int64[K] images of the smaller half, int32[K] the cluster.

    `table` is int64 csr [K_h, K], and `sizes` int64[K] are the sums of its columns.
    """
    by_label = sparse.csr_matrix(table.T)
    size = np.repeat(sizes, np.diff(by_label.indptr))
    by_label.data = np.minimum(by_label.data, size - by_label.data)
    cluster, images = first_largest(by_label)
    return images.astype(np.int64), np.maximum(cluster, 0)


def split_for_unused(counted: Tally) -> Split | None:
    """How to fill one label that no image has: divide a label where a head divides it most evenly.

    A partitioner may leave a part empty, and in MCLA a meta-cluster may win no image. Of equal splits it is that of the
    first head, cluster and label; None if all labels are in use or no head divides any label.
    """
    unused = np.flatnonzero(counted.sizes == 0)
    if unused.size == 0 or not counted.split.any():
        return None
    heads, labels = np.nonzero(counted.split == counted.split.max())
    first = np.lexsort((labels, counted.split_cluster[heads, labels], heads))[0]
    head, label = int(heads[first]), int(labels[first])
    return Split(head, int(counted.split_cluster[head, label]), label, int(unused[0]))


def apply_split(
    labels: NDArray[np.integer],
    label: NDArray[np.int32],
    split: Split,
    head_sizes: NDArray[np.int64],
    counts: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Divide a label in a shard of head labels int[N, H], each row of `counts` int64[N] images (one by default).

    Returns the labels int32[N] after it; and int64[C, 2], the images of each head cluster that have the divided label
    then and that have the one filled, to be summed over shards for `after_split`.
    """
    rows = np.flatnonzero(label == split.label)
    moved = labels[rows, split.head] == split.cluster
    weights = None if counts is None else counts[rows]
    columns = [
        np.bincount(np.multiply(column[rows], 2, dtype=np.int64) + moved, weights=weights, minlength=2 * size).reshape(
            -1, 2
        )
        for column, size in zip(labels.T, head_sizes.tolist(), strict=True)
    ]
    label = label.copy()
    label[rows[moved]] = split.unused
    return label, np.concatenate(columns).astype(np.int64)


def after_split(counted: Tally, split: Split, columns: NDArray[np.int64], offsets: NDArray[np.int64]) -> Tally:
    """The tally brought up to date in all that further splits depend on: sizes and splits, not the scores.

    `counted` is before the split, and `columns` int64[C, 2] are those of `apply_split`, summed over all shards.
    """
    both = [split.label, split.unused]
    images, clusters, sizes = counted.split.copy(), counted.split_cluster.copy(), counted.sizes.copy()
    sizes[both] = columns[: offsets[1]].sum(axis=0)
    halves = np.minimum(columns, sizes[both] - columns)
    for head, (start, stop) in enumerate(itertools.pairwise(offsets)):
        clusters[head, both] = halves[start:stop].argmax(axis=0)
        images[head, both] = halves[start:stop].max(axis=0)
    return Tally(sizes, counted.nmi, counted.mapping, images, clusters)
