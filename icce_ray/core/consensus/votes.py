"""The heads vote on a candidate consensus: every image gets the label that raises ANMI most, to first order.

With K labels and H heads an image has H K weights to add. Almost all of them say only that a head cluster and a label
never meet: that is one number for the label and the head. So an image's sum starts from a sum that all images share,
and adds what its clusters have seen; and of that first the largest only, which decides most images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import first_largest, incidence
from icce_ray.core.metrics import entropy, information, margins

_BLOCK_ENTRIES = 4_000_000
_LARGEST = 8
"""Gains of a head cluster that are added first; the others are bounded by the next largest."""


@dataclass(frozen=True)
class Ballots:
    """The weight of every label for an image of each cluster of some heads.

    Weights are whole multiples of one power of two, so small that any sum of them over all heads is exact in float64:
    the order of heads, shards and blocks cannot change a vote, and equal sums are equal.
    """

    base: NDArray[np.float64]
    """float64[K], sum over the heads of the weight of a label that the image's cluster never met."""
    gains: sparse.csr_matrix
    """float64 csr [sum K_h, K] >= 0, the weight of a label that the cluster met, above that."""
    largest: sparse.csr_matrix
    """The largest gains of each cluster, `_LARGEST` at most."""
    rest: NDArray[np.float64]
    """float64[sum K_h], the largest gain of each cluster that is not among these."""


def ballots(tables: Sequence[sparse.csr_matrix], n_heads: int) -> Ballots:
    """How much ANMI gains when one image of a head cluster is given a label: the derivative of ANMI.

    With p the table of head h over N, Ha and Hk the entropies of the head and the consensus and I their mutual
    information, `d NMI_h / d p(a, k) = [ log p(a,k)/p(k) + I / (2 Hk) log p(k) ] / sqrt(Ha Hk)` up to what is
    the same for all k. The factor 1 / sqrt(Hk), the same for all heads, is left out. I is convex in the labelling for
    a fixed p(k), so that following the derivative of I goes uphill; the entropy terms follow only to first order,
    hence the check in `ensemble.refine`.

    `tables` are int64 csr [K_h, K] of some of the `n_heads` heads with the labelling, for all images
    (`metrics.head_contingency`). All weights are zero if the consensus has one label; of a head with one cluster too.
    """
    sizes = margins(tables[0])[1]
    total, of_labels = int(sizes.sum()), entropy(sizes)
    log_label: NDArray[np.float64] = np.log(np.maximum(sizes, 0.5) / total)
    unit = _unit(total, n_heads)
    base, gains = np.zeros(sizes.size), []
    for table in tables:
        rows, columns = margins(table)
        of_clusters = entropy(rows)
        scale = 1 / np.sqrt(of_clusters) if of_clusters > 0 and of_labels > 0 else 0.0
        shared = information(table, rows, columns) if scale else 0.0
        prior = -np.log(total) - log_label + (shared / (2 * of_labels) * log_label if scale else 0.0)
        # Half an image stands for none: an unseen pair is unlikely, not impossible.
        unseen = np.rint((np.log(0.5) + prior) * scale / unit) * unit
        seen = np.rint((np.log(table.data) + prior[table.indices]) * scale / unit) * unit
        base += unseen
        gain = seen - unseen[table.indices]
        gains.append(sparse.csr_matrix((gain, table.indices, table.indptr), shape=table.shape))
    together = sparse.csr_matrix(sparse.vstack(gains, format="csr"))
    return Ballots(base, together, *_top(together))


def _unit(total: int, n_heads: int) -> float:
    """A power of two that divides all weights: sums of H of them stay below 2**52 units.

    A head that is not constant has an entropy of at least log(N) / N, and no weight is beyond 2 log(2 N) times its
    scale: the pairs, the labels and I / 2 Hk <= 1/2 each contribute at most log(2 N).
    """
    bound = n_heads * 2 * np.log(2 * total) * np.sqrt(total / np.log(max(total, 2)))
    return float(2.0 ** (np.ceil(np.log2(bound)) - 52))


def _top(gains: sparse.csr_matrix) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """The largest gains of each row, and for each row the largest that is not among them, 0 if there is none."""
    lengths = np.diff(gains.indptr)
    row = np.repeat(np.arange(lengths.size), lengths)
    order = np.lexsort((np.negative(gains.data), row))
    rank = np.arange(order.size) - np.repeat(gains.indptr[:-1], lengths)
    kept, next_one = np.sort(order[rank < _LARGEST]), order[rank == _LARGEST]
    starts = np.concatenate([[0], np.cumsum(np.minimum(lengths, _LARGEST))])
    rest = np.zeros(lengths.size)
    rest[row[next_one]] = gains.data[next_one]
    return sparse.csr_matrix((gains.data[kept], gains.indices[kept], starts), shape=gains.shape), rest


def concatenate_ballots(parts: Sequence[Ballots]) -> Ballots:
    """Ballots of several sets of heads as one, the heads in this order."""
    if len(parts) == 1:
        return parts[0]
    gains, largest = (
        sparse.csr_matrix(sparse.vstack(tables, format="csr"))
        for tables in ([part.gains for part in parts], [part.largest for part in parts])
    )
    base = np.sum([part.base for part in parts], axis=0)
    return Ballots(base, gains, largest, np.concatenate([part.rest for part in parts]))


def vote(labels: NDArray[np.integer], cast: Ballots, offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """The label with the largest sum of the weights of the image's head clusters, the first of equals.

    `labels` int[N, H] are a shard of any size, `cast` the ballots of all H heads. Returns int32[N] in [0, K).
    """
    n_labels = cast.base.size
    label = np.empty(labels.shape[0], dtype=np.int32)
    few = n_labels <= 4 * _LARGEST
    dense = cast.gains.toarray() if few else None
    step = max(1, _BLOCK_ENTRIES // (max(n_labels, labels.shape[1]) if few else labels.shape[1] * _LARGEST))
    for start in range(0, labels.shape[0], step):
        block = slice(start, start + step)
        members = incidence(labels[block], offsets)
        if dense is not None:
            label[block] = (members @ dense + cast.base).argmax(axis=1)
            continue
        leader, certain = _by_largest(members, cast)
        uncertain, few_rows = np.flatnonzero(~certain), max(1, _BLOCK_ENTRIES // n_labels)
        for first in range(0, uncertain.size, few_rows):
            rows = uncertain[first : first + few_rows]
            leader[rows] = ((members[rows] @ cast.gains).toarray() + cast.base).argmax(axis=1)
        label[block] = leader
    return label


def _by_largest(members: sparse.csr_matrix, cast: Ballots) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The leading label of each row by the largest gains alone, and whether no other can reach it by the rest."""
    sums = sparse.csr_matrix(members @ cast.largest)
    sums.data += cast.base[sums.indices]
    leader, best = first_largest(sums)
    # Whoever leads is set aside; the next of the row, or any label without a gain in it, is the rival.
    sums.data[sums.indices == np.repeat(leader, np.diff(sums.indptr))] = -np.inf
    rival = np.maximum(first_largest(sums)[1], cast.base.max())
    return leader, (leader >= 0) & (best > rival + members @ cast.rest)
