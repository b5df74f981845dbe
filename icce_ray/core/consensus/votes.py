"""From a candidate consensus to a better one, and the evidence for it: votes, agreement, unused labels.

Everything is computed from the contingency tables of the candidate with the heads (`metrics.head_contingency`),
which are sums over shards, and applied to one shard at a time.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icce_ray.core.consensus.clusters import Collapsed, head_offsets, incidence
from icce_ray.core.metrics import anmi, head_contingency

_BLOCK_ENTRIES = 4_000_000


def head_map(tables: NDArray[np.int64]) -> NDArray[np.int32]:
    """The consensus label that most images of each head cluster have.

    Args:
        tables: int64[H, Kmax, K] of `head_contingency`.

    Returns:
        int32[H, Kmax], -1 for clusters without images.
    """
    return np.where(tables.sum(axis=2) > 0, tables.argmax(axis=2), -1).astype(np.int32)


def agreement(
    labels: NDArray[np.integer], label: NDArray[np.integer], mapping: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Share of heads whose cluster stands for the image's consensus label.

    Args:
        labels: int[N, H], a shard.
        label: int[N], its consensus labels.
        mapping: int32[H, Kmax] of `head_map`, from the tables of all shards.

    Returns:
        float32[N] in [0, 1].
    """
    agreeing = np.zeros(labels.shape[0], dtype=np.int64)
    for of_head, column in zip(mapping, labels.T, strict=True):
        agreeing += of_head[column] == label
    return (agreeing / labels.shape[1]).astype(np.float32)


def vote_weights(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much ANMI gains when one image of a head cluster is given a label: the derivative of ANMI.

    With p the table of head h over N, Ha and Hk the entropies of the head and the consensus and I their mutual
    information, `d NMI_h / d p(a, k) = [ log p(a,k)/p(k) + I / (2 Hk) log p(k) ] / sqrt(Ha Hk)` up to what is
    the same for all k. I is convex in the labelling for a fixed p(k), so that following the derivative of I goes
    uphill; the entropy terms follow only to first order, hence the check in `refine`.

    Args:
        tables: int64[H, Kmax, K] of `head_contingency`.

    Returns:
        float64[H, Kmax, K]; zeros if the consensus has one cluster, and for heads with one cluster.
    """
    total = tables[0].sum()
    p_label = tables[0].sum(axis=0) / total
    log_label = np.log(np.maximum(p_label, 0.5 / total))
    h_label = -(p_label * log_label).sum()
    p_cluster = tables.sum(axis=2) / total
    h_cluster = -(p_cluster * np.log(np.maximum(p_cluster, 0.5 / total))).sum(axis=1)
    if h_label <= 0:
        return np.zeros(tables.shape)
    # Half an image stands for none: an unseen pair is unlikely, not impossible.
    weights = np.log(np.maximum(tables, 0.5)) - np.log(total) - log_label
    p_both = tables / total
    information = (p_both * weights).sum(axis=(1, 2)) + h_cluster
    weights += (information / (2 * h_label))[:, None, None] * log_label
    scale = np.sqrt(h_cluster * h_label)
    return weights * np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)[:, None, None]


def vote(labels: NDArray[np.integer], weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """The label with the largest sum of the weights of the image's head clusters.

    Args:
        labels: int[N, H], a shard of any size.
        weights: float64[H, Kmax, K].

    Returns:
        int32[N] in [0, K), the first of equals.
    """
    n_heads, largest, n_clusters = weights.shape
    offsets = head_offsets(np.full(n_heads, largest))
    flat = weights.reshape(n_heads * largest, n_clusters)
    label = np.empty(labels.shape[0], dtype=np.int32)
    step = max(1, _BLOCK_ENTRIES // max(n_clusters, n_heads))
    for start in range(0, labels.shape[0], step):
        block = slice(start, start + step)
        label[block] = (incidence(labels[block], offsets) @ flat).argmax(axis=1)
    return label


def improves(tables: NDArray[np.int64], previous: NDArray[np.int64]) -> bool:
    """Whether a vote is kept: ANMI rises and no label in use falls out of use. Both int64[H, Kmax, K]."""
    used, used_before = (int((t[0].sum(axis=0) > 0).sum()) for t in (tables, previous))
    return used >= used_before and anmi(tables) > anmi(previous) + 1e-9


def refine(
    rows: Collapsed, label: NDArray[np.int32], n_clusters: int, max_steps: int = 20
) -> tuple[NDArray[np.int32], int]:
    """Let the heads vote again and again while ANMI rises.

    Args:
        rows: from `collapse`.
        label: int32[U], a candidate.
        n_clusters: K.
        max_steps: votes at most.

    Returns:
        label int32[U] with an ANMI at least as high, and the number of votes kept.
    """
    tables = head_contingency(rows.labels, label, rows.head_sizes, n_clusters, rows.counts)
    for step in range(max_steps):
        voted = vote(rows.labels, vote_weights(tables))
        after = head_contingency(rows.labels, voted, rows.head_sizes, n_clusters, rows.counts)
        if not improves(after, tables):
            return label, step
        label, tables = voted, after
    return label, max_steps


class Split(NamedTuple):
    """Images of `label` that `head` puts in `cluster` are to become `unused`."""

    head: int
    cluster: int
    label: int
    unused: int


def split_for_unused(tables: NDArray[np.int64]) -> Split | None:
    """How to fill one label that no image has: divide a label where a head divides it most evenly.

    A partitioner may leave a part empty, and in MCLA a meta-cluster may win no image.

    Args:
        tables: int64[H, Kmax, K] of `head_contingency`.

    Returns:
        The split, or None if all labels are in use or no head divides any label.
    """
    sizes = tables[0].sum(axis=0)
    unused = np.flatnonzero(sizes == 0)
    if unused.size == 0:
        return None
    smaller_half = np.minimum(tables, sizes - tables)
    head, cluster, label = np.unravel_index(int(smaller_half.argmax()), tables.shape)
    if smaller_half[head, cluster, label] == 0:
        return None
    return Split(int(head), int(cluster), int(label), int(unused[0]))


def apply_split(labels: NDArray[np.integer], label: NDArray[np.int32], split: Split) -> NDArray[np.int32]:
    """Relabel a shard: labels int[N, H] and label int32[N] in, int32[N] out."""
    moved = (labels[:, split.head] == split.cluster) & (label == split.label)
    return np.where(moved, np.int32(split.unused), label)


def use_all(rows: Collapsed, label: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
    """Fill labels that no row has, as long as there is something to split: int32[U] in and out."""
    for _ in range(n_clusters):
        tables = head_contingency(rows.labels, label, rows.head_sizes, n_clusters, rows.counts)
        split = split_for_unused(tables)
        if split is None:
            break
        label = apply_split(rows.labels, label, split)
    return label
