"""All methods on one set of head labels, the consensus with the highest ANMI kept (paper 3.2, eq. 4-7).

`consensus` is the whole in memory. MCLA, the splits, the votes and the alarms ask `HeadRows` of the labels, which
need not lie in one place: `LocalRows` answers in memory, the stage with Ray tasks over shards (`stages/ensemble.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from icce_ray.core.alarms import Alarm, consensus_alarms, divided, shared_division
from icce_ray.core.consensus import mcla, tally, votes
from icce_ray.core.consensus.clusters import (
    Collapsed,
    ConsensusSizeError,
    Partitioner,
    Partitioners,
    check_problem,
    collapse,
    present,
)
from icce_ray.core.consensus.graphs import cspa, hbgf, hgpa
from icce_ray.core.consensus.tally import Split, Tally, agreeing
from icce_ray.core.metrics import head_contingency

METHODS = ("cspa", "hgpa", "mcla", "hbgf")
"""Paper 3.2: the first three; HBGF is beyond the paper."""
IMBALANCES = (0.05, 0.5)
"""Balance tolerances tried for each method; the better by ANMI is kept."""
MAX_VOTES = 20
"""Refining votes at most."""
#: Images of a shard, where tasks answer: to be reached by whole files. Tables and votes cost more for each image in
#: smaller ones.
IMAGES_PER_SHARD = 250_000
#: Heads whose labels lie in one array: 50 heads make 15 blocks of pairs, which as many tasks count.
HEADS_PER_ARRAY = 10

L = TypeVar("L")


@dataclass(frozen=True)
class Consensus:
    """One labelling for the labels of many heads, with what it was chosen from."""

    label: NDArray[np.int32]
    """int32[N] in [0, K)."""
    agreement: NDArray[np.float32]
    """float32[N] in [0, 1]: share of heads whose cluster stands for the image's label."""
    anmi: float
    """Of `label`, at least that of the candidate kept."""
    votes: int
    """Refining votes kept."""
    alarms: list[Alarm]
    """What looks wrong with it."""
    method: str
    """The method kept; ties go to the first."""
    scores: dict[str, float]
    """ANMI of each method that ran, before refining."""
    refused: dict[str, str]
    """Reason of each method that refused the size."""
    candidates: dict[str, NDArray[np.int32]]
    """int32[N] of each method that ran."""


def consensus(
    labels: ArrayLike,
    n_clusters: int,
    partitioners: Partitioners,
    *,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    imbalances: Sequence[float] = IMBALANCES,
    max_votes: int = MAX_VOTES,
) -> Consensus:
    """Label images so as to agree most, by ANMI, with all heads.

    Args:
        labels: int[N, H], labels of each head, >= 0; heads may differ in their number of clusters.
        n_clusters: K >= 2 of the consensus.
        partitioners: cut the graphs of the methods, such as `search.partition.PARTITIONERS`.
        methods: which to run, of "cspa", "hgpa", "mcla", "hbgf".
        seed: of the cuts; the same seed gives the same consensus.
        imbalances: balance tolerances to try, real classes being unequal; HGPA uses the first only.
        max_votes: refining votes at most, 0 for none.

    Raises:
        ValueError: malformed labels, an unknown method.
        ConsensusSizeError: fewer images than K, K < 2, or every method refused.
    """
    if set(methods) - set(METHODS) or not methods:
        raise ValueError(f"methods are {list(methods)}; choose at least one of {list(METHODS)}")
    rows = collapse(np.asarray(labels))
    candidates: dict[str, NDArray[np.int32]] = {}
    scores: dict[str, float] = {}
    refused: dict[str, str] = {}
    for method in methods:
        try:
            candidates[method], scores[method] = candidate(rows, n_clusters, method, partitioners, seed, imbalances)
        except ConsensusSizeError as reason:
            refused[method] = str(reason)
    if not candidates:
        raise ConsensusSizeError(f"every method refused: {refused}")
    method, local = best_method(scores), LocalRows(rows)
    label, counted, votes = refine(local, candidates[method], n_clusters, max_votes)
    share = (agreeing(rows.labels, label, counted.mapping) / rows.labels.shape[1]).astype(np.float32)[rows.index]
    alarms = alarms_of(local, label, counted, float(share.mean()))
    candidates = {name: of_rows[rows.index] for name, of_rows in candidates.items()}
    return Consensus(label[rows.index], share, counted.anmi, votes, alarms, method, scores, refused, candidates)


def best_method(scores: Mapping[str, float]) -> str:
    """The method with the highest ANMI; ties go to the first."""
    return max(scores, key=lambda name: scores[name])


def candidate(
    rows: Collapsed,
    n_clusters: int,
    method: str,
    partitioners: Partitioners,
    seed: int,
    imbalances: Sequence[float] = IMBALANCES,
) -> tuple[NDArray[np.int32], float]:
    """One method's label of each distinct row, int32[U], and its ANMI; the better of the balance tolerances.

    Raises ConsensusSizeError if the method cannot serve this size, for fewer images than K, and for K < 2.
    """
    check_problem(rows.n_images, n_clusters)
    local = LocalRows(rows)
    if method == "mcla":
        label, counted = best_meta_clusters(local, n_clusters, partitioners.graph, seed, imbalances)
        return label, counted.anmi
    if method == "hgpa":  # the slowest by far, and another tolerance never brought it near the others
        labels = [hgpa(rows, n_clusters, partitioners.hypergraph, seed, imbalance=imbalances[0])]
    else:
        cut = {"cspa": cspa, "hbgf": hbgf}[method]
        labels = [cut(rows, n_clusters, partitioners.graph, seed, imbalance=imbalance) for imbalance in imbalances]
    label, counted = max((use_all(local, label, n_clusters) for label in labels), key=lambda tried: tried[1].anmi)
    return label, counted.anmi


class HeadRows(Protocol[L]):
    """Labels of all images under all heads. `L` is one labelling of all images, opaque to whoever asks."""

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

    def split(self, label: L, splits: Sequence[Split]) -> L:
        """`tally.apply_splits`."""
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

    def split(self, label: NDArray[np.int32], splits: Sequence[Split]) -> NDArray[np.int32]:
        """Label of each row."""
        return tally.apply_splits(self.rows.labels, label, splits)

    def division_moments(
        self, label: NDArray[np.int32], chosen: NDArray[np.int64], counted: Tally
    ) -> NDArray[np.float64]:
        """Of some labels."""
        return tally.division_moments(self.rows.labels, label, chosen, counted.split_cluster, self.rows.counts)

    def _tables(self, label: NDArray[np.int32], n_clusters: int) -> list[csr_matrix]:
        return head_contingency(self.rows.labels, label, self.rows.head_sizes, n_clusters, self.rows.counts)


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
    counted = rows.tally(label, n_clusters)
    while splits := tally.splits_for_unused(counted):
        label = rows.split(label, splits)
        counted = rows.tally(label, n_clusters)
    return label, counted


def refine(rows: HeadRows[L], label: L, n_clusters: int, max_votes: int) -> tuple[L, Tally, int]:
    """Let the heads vote on a candidate, `max_votes` times at most, while ANMI rises and no label falls out of use.

    Returns a labelling with an ANMI at least as high, its tally, and the number of votes kept.
    """
    counted = rows.tally(label, n_clusters)
    for kept in range(max_votes):
        voted = rows.vote(label, n_clusters)
        after = rows.tally(voted, n_clusters)
        if after.used < counted.used or after.anmi <= counted.anmi + 1e-9:
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
