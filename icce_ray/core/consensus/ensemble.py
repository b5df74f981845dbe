"""All methods on one set of head labels, the consensus with the highest ANMI kept (paper 3.2, eq. 4-7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icce_ray.core.alarms import Alarm
from icce_ray.core.consensus.clusters import Collapsed, check_problem, collapse
from icce_ray.core.consensus.cspa import check_cspa, cspa
from icce_ray.core.consensus.hbgf import check_hbgf, hbgf
from icce_ray.core.consensus.hgpa import check_hgpa, hgpa
from icce_ray.core.consensus.partitioning import (
    ConsensusSizeError,
    GraphPartitioner,
    HypergraphPartitioner,
)
from icce_ray.core.consensus.rows import LocalRows, alarms_of, best_meta_clusters, refine, use_all
from icce_ray.core.consensus.tally import Tally, agreeing

METHODS = ("cspa", "hgpa", "mcla", "hbgf")
"""Paper 3.2: the first three; HBGF is beyond the paper."""
IMBALANCES = (0.05, 0.5)
"""Balance tolerances tried for each method; the better by ANMI is kept."""

MAX_VOTES = 20
"""Refining votes at most."""


@dataclass(frozen=True)
class Settled:
    """A candidate after the heads have voted on it."""

    label: NDArray[np.int32]
    """int32[N] in [0, K)."""
    agreement: NDArray[np.float32]
    """float32[N] in [0, 1]: share of heads whose cluster stands for the image's label."""
    anmi: float
    """Of `label`, at least the candidate's."""
    votes: int
    """Refining votes kept."""
    alarms: list[Alarm]
    """What looks wrong with it, for people and programs."""


@dataclass(frozen=True)
class Consensus(Settled):
    """One labelling for the labels of many heads, with what it was chosen from."""

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
    *,
    graph_partitioner: GraphPartitioner,
    hypergraph_partitioner: HypergraphPartitioner,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    imbalances: Sequence[float] = IMBALANCES,
    head_sizes: ArrayLike | None = None,
    max_votes: int = MAX_VOTES,
) -> Consensus:
    """Label images so as to agree most, by ANMI, with all heads.

    Args:
        labels: int[N, H], labels of each head, >= 0; heads may differ in their number of clusters.
        n_clusters: K >= 2 of the consensus.
        graph_partitioner: cuts the graphs of CSPA, MCLA and HBGF.
        hypergraph_partitioner: cuts the hypergraph of HGPA.
        methods: which to run, of "cspa", "hgpa", "mcla", "hbgf".
        seed: for the partitioners; the same seed gives the same consensus.
        imbalances: balance tolerances to try, real classes being unequal; HGPA uses the first only.
        head_sizes: int[H]; by default the largest label of each head plus one.
        max_votes: refining votes at most, 0 for none.

    Returns:
        The best labelling and all candidates.

    Raises:
        ValueError: malformed labels, an unknown method.
        ConsensusSizeError: fewer images than K, K < 2, or every method refused.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or not methods:
        raise ValueError(f"methods are {list(methods)}; choose at least one of {list(METHODS)}")
    rows = collapse(np.asarray(labels), head_sizes=head_sizes)
    found: dict[str, NDArray[np.int32]] = {}
    scores: dict[str, float] = {}
    refused: dict[str, str] = {}
    for method in methods:
        try:
            found[method], scores[method] = candidate(
                rows,
                n_clusters,
                method,
                graph_partitioner=graph_partitioner,
                hypergraph_partitioner=hypergraph_partitioner,
                seed=seed,
                imbalances=imbalances,
            )
        except ConsensusSizeError as reason:
            refused[method] = str(reason)
    if not found:
        raise ConsensusSizeError(f"every method refused: {refused}")
    method = best_method(scores)
    settled = settle(rows, found[method], n_clusters, max_votes=max_votes)
    return Consensus(**vars(settled), method=method, scores=scores, refused=refused, candidates=found)


def best_method(scores: Mapping[str, float]) -> str:
    """The method with the highest ANMI; ties go to the first."""
    return max(scores, key=lambda name: scores[name])


def candidate(
    rows: Collapsed,
    n_clusters: int,
    method: str,
    *,
    graph_partitioner: GraphPartitioner,
    hypergraph_partitioner: HypergraphPartitioner,
    seed: int = 0,
    imbalances: Sequence[float] = IMBALANCES,
) -> tuple[NDArray[np.int32], float]:
    """One method's labels of all images, int32[N], and their ANMI; the better of the balance tolerances.

    Raises:
        ConsensusSizeError: the method cannot serve this size, fewer images than K, K < 2.
    """
    check_problem(rows.n_images, n_clusters)
    local = LocalRows(rows)
    if method == "mcla":
        label, found = best_meta_clusters(local, n_clusters, graph_partitioner, seed, imbalances)
        return label[rows.index], found.anmi
    tried: list[tuple[NDArray[np.int32], Tally]] = []
    # HGPA is the slowest by far, and another tolerance never brought it near the others: the first is enough.
    for imbalance in imbalances[:1] if method == "hgpa" else imbalances:
        if method == "hgpa":
            label = hgpa(rows, n_clusters, hypergraph_partitioner, seed, imbalance=imbalance)
        else:
            cut = {"cspa": cspa, "hbgf": hbgf}[method]
            label = cut(rows, n_clusters, graph_partitioner, seed, imbalance=imbalance)
        tried.append(use_all(local, label, n_clusters))
    label, found = max(tried, key=lambda pair: pair[1].anmi)
    return label[rows.index], found.anmi


def check_rows(method: str, n_rows: int, n_heads: int) -> None:
    """Refuse before any work what a method's graph of distinct rows would refuse; MCLA refuses none.

    Raises:
        ConsensusSizeError: with the value, the limit and the remedy.
    """
    checks = {"cspa": check_cspa, "hgpa": check_hgpa, "hbgf": check_hbgf}
    if method in checks:
        checks[method](n_rows, n_heads)


def settle(
    rows: Collapsed,
    label: NDArray[np.int32],
    n_clusters: int,
    *,
    max_votes: int = MAX_VOTES,
) -> Settled:
    """Refine a candidate int32[N] by votes of the heads while ANMI rises, and measure how far they agree on it."""
    first = np.empty(len(rows.labels), dtype=np.int32)
    first[rows.index] = label  # a candidate gives identical rows one label, so any image of a row serves
    local = LocalRows(rows)
    refined, found, votes = refine(local, first, n_clusters, max_votes)
    share = (agreeing(rows.labels, refined, found.mapping) / rows.labels.shape[1]).astype(np.float32)
    alarms = alarms_of(local, refined, found, float(share[rows.index].mean()))
    return Settled(label=refined[rows.index], agreement=share[rows.index], anmi=found.anmi, votes=votes, alarms=alarms)
