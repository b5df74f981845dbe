"""All methods on one set of head labels, the consensus with the highest ANMI kept (paper 3.2, eq. 4-7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icce_ray.core.consensus.clusters import Collapsed, check_problem, collapse
from icce_ray.core.consensus.cspa import cspa
from icce_ray.core.consensus.hbgf import hbgf
from icce_ray.core.consensus.hgpa import hgpa
from icce_ray.core.consensus.mcla import mcla
from icce_ray.core.consensus.partitioning import (
    ConsensusSizeError,
    GraphPartitioner,
    HypergraphPartitioner,
)
from icce_ray.core.consensus.votes import agreement, head_map, refine, use_all
from icce_ray.core.metrics import anmi, head_contingency

METHODS = ("cspa", "hgpa", "mcla", "hbgf")
"""Paper 3.2: the first three; HBGF is beyond the paper."""
IMBALANCES = (0.05, 0.5)
"""Balance tolerances tried for each method; the better by ANMI is kept."""


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
    max_votes: int = 20,
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
    run = _Run(rows, n_clusters, graph_partitioner, hypergraph_partitioner, seed)
    label, score = run.best(method, imbalances)
    return label[rows.index], score


def settle(rows: Collapsed, label: NDArray[np.int32], n_clusters: int, *, max_votes: int = 20) -> Settled:
    """Refine a candidate int32[N] by votes of the heads while ANMI rises, and measure how far they agree on it."""
    first = np.empty(len(rows.labels), dtype=np.int32)
    first[rows.index] = label  # a candidate gives identical rows one label, so any image of a row serves
    refined, votes = refine(rows, first, n_clusters, max_votes)
    tables = head_contingency(rows.labels, refined, rows.head_sizes, n_clusters, rows.counts)
    share = agreement(rows.labels, refined, head_map(tables))
    return Settled(label=refined[rows.index], agreement=share[rows.index], anmi=anmi(tables), votes=votes)


@dataclass(frozen=True)
class _Run:
    """One problem and its tools, so that every method is called alike."""

    rows: Collapsed
    n_clusters: int
    graph_partitioner: GraphPartitioner
    hypergraph_partitioner: HypergraphPartitioner
    seed: int

    def tables(self, label: NDArray[np.int32]) -> NDArray[np.int64]:
        return head_contingency(self.rows.labels, label, self.rows.head_sizes, self.n_clusters, self.rows.counts)

    def best(self, method: str, imbalances: Sequence[float]) -> tuple[NDArray[np.int32], float]:
        """The method's labels int32[U] and ANMI over the tolerances; the first of equals."""
        tried = []
        # HGPA is the slowest by far, and another tolerance never brought it near the others: the first is enough.
        for imbalance in imbalances[:1] if method == "hgpa" else imbalances:
            label = use_all(self.rows, self._label(method, imbalance), self.n_clusters)
            tried.append((label, anmi(self.tables(label))))
        return max(tried, key=lambda pair: pair[1])

    def _label(self, method: str, imbalance: float) -> NDArray[np.int32]:
        if method == "hgpa":
            return hgpa(self.rows, self.n_clusters, self.hypergraph_partitioner, self.seed, imbalance=imbalance)
        run = {"cspa": cspa, "mcla": mcla, "hbgf": hbgf}[method]
        return run(self.rows, self.n_clusters, self.graph_partitioner, self.seed, imbalance=imbalance)
