"""Head labels of all images wherever they are: what MCLA and the votes ask of them, and the answer in memory.

The stage answers with Ray tasks over shards (`stages/ensemble.py`); what is done with the answers is the same code.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from icce_ray.core.alarms import Alarm, consensus_alarms, divided, shared_division
from icce_ray.core.consensus import mcla, votes
from icce_ray.core.consensus.clusters import Collapsed
from icce_ray.core.consensus.overlaps import all_pairs, cluster_graph, overlaps
from icce_ray.core.consensus.partitioning import GraphPartitioner
from icce_ray.core.consensus.tally import (
    Split,
    Tally,
    after_split,
    apply_split,
    division_moments,
    improves,
    split_for_unused,
    tally,
)
from icce_ray.core.metrics import head_contingency

#: Images of a shard, where tasks answer: to be reached by whole files. Tables and votes
#: cost more for each image in smaller ones.
IMAGES_PER_SHARD = 250_000
#: Heads whose labels lie in one array: 50 heads make 15 blocks of pairs, which as many tasks count.
HEADS_PER_ARRAY = 10

L = TypeVar("L")


class HeadRows(Protocol[L]):
    """Labels of all images under all heads. `L` is one labelling of all images, opaque to whoever asks."""

    @property
    def n_images(self) -> int:
        """N."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[H + 1], `head_offsets` of the sizes of the heads."""
        ...

    def meta_clusters(
        self, n_clusters: int, partition: GraphPartitioner, seed: int, imbalances: Sequence[float]
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

    def division_moments(self, label: L, chosen: NDArray[np.int64], found: Tally) -> NDArray[np.float64]:
        """`tally.division_moments`, summed over all images."""
        ...


class LocalRows:
    """Distinct rows in memory; a labelling is int32[U]."""

    def __init__(self, rows: Collapsed) -> None:
        self.rows = rows

    @property
    def n_images(self) -> int:
        """N."""
        return self.rows.n_images

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[H + 1]."""
        return self.rows.offsets

    def meta_clusters(
        self, n_clusters: int, partition: GraphPartitioner, seed: int, imbalances: Sequence[float]
    ) -> list[NDArray[np.int32]]:
        """Meta-clusters for each tolerance, from one graph."""
        labels = np.ascontiguousarray(self.rows.labels.T)
        found = overlaps(dict(enumerate(labels)), all_pairs(len(labels)), self.offsets, self.rows.counts)
        graph = cluster_graph([found], present(self.rows.labels, self.offsets))
        return [mcla.meta_clusters(graph, n_clusters, partition, seed, imbalance=value) for value in imbalances]

    def assign(self, meta: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
        """Label of each row."""
        return mcla.assign(self.rows.labels, self.offsets, meta, n_clusters)[0]

    def tally(self, label: NDArray[np.int32], n_clusters: int) -> Tally:
        """Of all heads at once."""
        return tally(head_contingency(self.rows.labels, label, self.rows.head_sizes, n_clusters, self.rows.counts))

    def vote(self, label: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
        """Label of each row."""
        tables = head_contingency(self.rows.labels, label, self.rows.head_sizes, n_clusters, self.rows.counts)
        return votes.vote(self.rows.labels, votes.ballots(tables, len(tables)), self.offsets)

    def split(self, label: NDArray[np.int32], split: Split) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Labels with one divided, and who has which half."""
        return apply_split(self.rows.labels, label, split, self.rows.head_sizes, self.rows.counts)

    def division_moments(
        self, label: NDArray[np.int32], chosen: NDArray[np.int64], found: Tally
    ) -> NDArray[np.float64]:
        """Of some labels."""
        return division_moments(self.rows.labels, label, chosen, found.split_cluster, self.rows.counts)


def present(labels: NDArray[np.integer], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which head clusters have images in a shard: bool[C] from int[N, H]."""
    found = np.zeros(int(offsets[-1]), dtype=bool)
    for start, column in zip(offsets[:-1].tolist(), labels.T, strict=True):
        found[start + np.unique(column).astype(np.int64)] = True
    return found


def best_meta_clusters(
    rows: HeadRows[L], n_clusters: int, partition: GraphPartitioner, seed: int, imbalances: Sequence[float]
) -> tuple[L, Tally]:
    """MCLA with every tolerance: the labelling of highest ANMI, the first of equals.

    Raises:
        ConsensusSizeError: fewer non-empty clusters than K, or K < 2.
    """
    tried = []
    for meta in rows.meta_clusters(n_clusters, partition, seed, imbalances):
        tried.append(use_all(rows, rows.assign(meta, n_clusters), n_clusters))
    return max(tried, key=lambda pair: pair[1].anmi)


def alarms_of(rows: HeadRows[L], label: L, found: Tally, mean_agreement: float) -> list[Alarm]:
    """What looks wrong with a consensus, from its tally and, if heads divide a label, one more look at all rows."""
    chosen = divided(found.sizes, found.split)
    division = np.zeros(0)
    if chosen.size:
        division = shared_division(rows.division_moments(label, chosen, found), found.sizes[chosen])
    return consensus_alarms(found.sizes, chosen, division, mean_agreement)


def use_all(rows: HeadRows[L], label: L, n_clusters: int) -> tuple[L, Tally]:
    """Fill labels that no image has, as long as there is something to split."""
    found = before = rows.tally(label, n_clusters)
    while (split := split_for_unused(found)) is not None:
        label, columns = rows.split(label, split)
        found = after_split(found, split, columns, rows.offsets)
    return label, found if found is before else rows.tally(label, n_clusters)


def refine(rows: HeadRows[L], label: L, n_clusters: int, max_votes: int) -> tuple[L, Tally, int]:
    """Let the heads vote again and again while ANMI rises.

    Args:
        rows: labels of the heads.
        label: a candidate.
        n_clusters: K.
        max_votes: votes at most.

    Returns:
        A labelling with an ANMI at least as high, its tally, and the number of votes kept.
    """
    found = rows.tally(label, n_clusters)
    for kept in range(max_votes):
        voted = rows.vote(label, n_clusters)
        after = rows.tally(voted, n_clusters)
        if not improves(after, found):
            return label, found, kept
        label, found = voted, after
    return label, found, max_votes
