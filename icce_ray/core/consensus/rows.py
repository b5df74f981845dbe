"""Head labels of all images wherever they are: what MCLA and the votes ask of them, and the answer in memory.

The stage answers with Ray tasks over shards (`stages/ensemble.py`); what is done with the answers is the same code.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.alarms import Alarm, consensus_alarms, divided, shared_division
from icce_ray.core.consensus import mcla, tally, votes
from icce_ray.core.consensus.clusters import Collapsed, present
from icce_ray.core.consensus.partitioning import Partitioner
from icce_ray.core.consensus.tally import Split, Tally
from icce_ray.core.metrics import pair_counts

#: Images of a shard, where tasks answer: to be reached by whole files. Tables and votes cost more for each image in
#: smaller ones.
IMAGES_PER_SHARD = 250_000
#: Heads whose labels lie in one array: 50 heads make 15 blocks of pairs, which as many tasks count.
HEADS_PER_ARRAY = 10

L = TypeVar("L")


class HeadRows(Protocol[L]):
    """Labels of all images under all heads. `L` is one labelling of all images, opaque to whoever asks."""

    offsets: NDArray[np.int64]
    """int64[H + 1], `head_offsets` of the sizes of the heads."""

    def meta_clusters(
        self, n_clusters: int, partition: Partitioner, seed: int, imbalances: Sequence[float]
    ) -> list[NDArray[np.int32]]:
        """`mcla.meta_clusters` for each tolerance. Raises ConsensusSizeError as that does."""
        ...

    def assign(self, meta: NDArray[np.int32], n_clusters: int) -> L:
        """`mcla.assign`."""
        ...

    def tally(self, label: L, n_clusters: int) -> Tally:
        """`tally.tally` of all heads."""
        ...

    def vote(self, label: L, n_clusters: int) -> L:
        """`votes.vote` with the ballots that follow from `label`."""
        ...

    def split(self, label: L, split: Split) -> tuple[L, NDArray[np.int64]]:
        """`tally.apply_split`, its columns summed over all images."""
        ...

    def division_moments(self, label: L, chosen: NDArray[np.int64], counted: Tally) -> NDArray[np.float64]:
        """`tally.division_moments`, summed over all images."""
        ...


class LocalRows:
    """Distinct rows in memory; a labelling is int32[U]. Methods as of `HeadRows`."""

    def __init__(self, rows: Collapsed) -> None:
        self.rows, self.offsets = rows, rows.offsets

    def meta_clusters(
        self, n_clusters: int, partition: Partitioner, seed: int, imbalances: Sequence[float]
    ) -> list[NDArray[np.int32]]:
        """Meta-clusters for each tolerance, from one graph."""
        labels = np.ascontiguousarray(self.rows.labels.T)
        pieces = mcla.overlaps(dict(enumerate(labels)), mcla.all_pairs(len(labels)), self.offsets, self.rows.counts)
        graph = mcla.cluster_graph([pieces], present(self.rows.labels, self.offsets))
        return [mcla.meta_clusters(graph, n_clusters, partition, seed, imbalance=value) for value in imbalances]

    def assign(self, meta: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
        """Label of each row."""
        return mcla.assign(self.rows.labels, self.offsets, meta, n_clusters)

    def tally(self, label: NDArray[np.int32], n_clusters: int) -> Tally:
        """Of all heads at once."""
        return tally.tally(self._tables(label, n_clusters))

    def vote(self, label: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
        """Label of each row."""
        tables = self._tables(label, n_clusters)
        return votes.vote(self.rows.labels, votes.ballots(tables, len(tables)), self.offsets)

    def split(self, label: NDArray[np.int32], split: Split) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Labels with one divided, and who has which half."""
        return tally.apply_split(self.rows.labels, label, split, self.rows.head_sizes, self.rows.counts)

    def division_moments(
        self, label: NDArray[np.int32], chosen: NDArray[np.int64], counted: Tally
    ) -> NDArray[np.float64]:
        """Of some labels."""
        return tally.division_moments(self.rows.labels, label, chosen, counted.split_cluster, self.rows.counts)

    def _tables(self, label: NDArray[np.int32], n_clusters: int) -> list[sparse.csr_matrix]:
        pairs = zip(self.rows.labels.T, self.rows.head_sizes.tolist(), strict=True)
        return [pair_counts(column, label, size, n_clusters, self.rows.counts) for column, size in pairs]


def best_meta_clusters(
    rows: HeadRows[L], n_clusters: int, partition: Partitioner, seed: int, imbalances: Sequence[float]
) -> tuple[L, Tally]:
    """MCLA with every tolerance: the labelling of highest ANMI, the first of equals.

    Raises ConsensusSizeError for fewer non-empty clusters than K, or K < 2.
    """
    metas = rows.meta_clusters(n_clusters, partition, seed, imbalances)
    return max((use_all(rows, rows.assign(meta, n_clusters), n_clusters) for meta in metas), key=lambda t: t[1].anmi)


def use_all(rows: HeadRows[L], label: L, n_clusters: int) -> tuple[L, Tally]:
    """Fill labels that no image has, as long as there is something to split."""
    counted = before = rows.tally(label, n_clusters)
    while (split := tally.split_for_unused(counted)) is not None:
        label, columns = rows.split(label, split)
        counted = tally.after_split(counted, split, columns, rows.offsets)
    return label, counted if counted is before else rows.tally(label, n_clusters)


def refine(rows: HeadRows[L], label: L, n_clusters: int, max_votes: int) -> tuple[L, Tally, int]:
    """Let the heads vote on a candidate, `max_votes` times at most, while ANMI rises.

    Returns a labelling with an ANMI at least as high, its tally, and the number of votes kept.
    """
    counted = rows.tally(label, n_clusters)
    for kept in range(max_votes):
        voted = rows.vote(label, n_clusters)
        after = rows.tally(voted, n_clusters)
        if not tally.improves(after, counted):
            return label, counted, kept
        label, counted = voted, after
    return label, counted, max_votes


def alarms_of(rows: HeadRows[L], label: L, counted: Tally, mean_agreement: float) -> list[Alarm]:
    """What looks wrong with a consensus, from its tally and, if heads divide a label, one more look at all rows."""
    chosen = divided(counted.sizes, counted.split)
    division = np.zeros(0)
    if chosen.size:
        division = shared_division(rows.division_moments(label, chosen, counted), counted.sizes[chosen])
    return consensus_alarms(counted.sizes, chosen, division, mean_agreement)
