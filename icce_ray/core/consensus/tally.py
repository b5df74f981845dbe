"""What one labelling and the heads have to do with each other, counted head by head: score, agreement, splits.

A head's part comes from the contingency table of its clusters with the labelling, for all images; the parts of heads
that were counted in different places are put side by side.
"""

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


def splits_for_unused(counted: Tally) -> list[Split]:
    """How to fill labels that no image has: each takes a half of another label, where a head divides it most evenly.

    A partitioner may leave a part empty, and in MCLA a meta-cluster may win no image. The most even splits come first,
    of equal ones that of the first head, cluster and label. No label is divided twice at once, so after as many splits
    as labels in use there may still be unused ones; there is no split if all are in use or no head divides any.
    """
    labels, evenest = np.arange(counted.sizes.size), counted.split.max(axis=0)
    head = counted.split.argmax(axis=0)
    cluster = counted.split_cluster[head, labels]
    order = np.lexsort((labels, cluster, head, -evenest))
    divided = order[evenest[order] > 0].tolist()
    unused = np.flatnonzero(counted.sizes == 0).tolist()
    return [
        Split(int(head[label]), int(cluster[label]), label, new) for label, new in zip(divided, unused, strict=False)
    ]


def apply_splits(labels: NDArray[np.integer], label: NDArray[np.int32], splits: Sequence[Split]) -> NDArray[np.int32]:
    """The labels int32[N] of a shard of head labels int[N, H] after these splits."""
    divided = label.copy()
    for split in splits:
        divided[(label == split.label) & (labels[:, split.head] == split.cluster)] = split.unused
    return divided
