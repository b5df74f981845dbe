"""All methods on one set of head labels, the consensus with the highest ANMI kept (paper 3.2, eq. 4-7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icce_ray.core.alarms import Alarm
from icce_ray.core.consensus.clusters import Collapsed, check_problem, collapse
from icce_ray.core.consensus.graphs import cspa, hbgf, hgpa
from icce_ray.core.consensus.partitioning import ConsensusSizeError, Partitioners
from icce_ray.core.consensus.rows import LocalRows, alarms_of, best_meta_clusters, refine, use_all
from icce_ray.core.consensus.tally import agreeing

METHODS = ("cspa", "hgpa", "mcla", "hbgf")
"""Paper 3.2: the first three; HBGF is beyond the paper."""
IMBALANCES = (0.05, 0.5)
"""Balance tolerances tried for each method; the better by ANMI is kept."""
MAX_VOTES = 20
"""Refining votes at most."""


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
