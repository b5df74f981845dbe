"""The number of clusters without labels: how many parts of the images heads of fewer clusters are made of (ours).

Heads with fewer clusters than there are classes must join some, and each joins others; what their clusters are made of
are the classes. In numbers: let P_h project onto the indicators of the clusters of head h. All of them lie in the space
of the classes' indicators, but for errors, and heads that join at random fill it: the mean of P_h over the heads has as
many large eigenvalues as there are classes, and behind them its spectrum drops (the eigengap of spectral clustering,
von Luxburg 2007, section 8.3, on the co-association of heads). Heads of three neighbouring numbers of clusters are
looked at together, and a drop behind the k-th eigenvalue counts only for heads that were given at most k clusters, and
not far fewer: what heads of more clusters have in common may be superclasses, or two slants of one digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor

from icce_ray.core.consensus.clusters import check_labels, head_offsets, incidence
from icce_ray.core.neighbors import Limits, Neighbors, default_k_max
from icce_ray.core.pilot import head_labels, pilot_recipe, pilot_sample, scaled
from icce_ray.core.recipe import Precision, Recipe
from icce_ray.core.search import mine
from icce_ray.core.selection import NEAREST
from icce_ray.core.selection import nearest as nearest_of

#: Ratio of one number of clusters given to heads to the next.
STEP = math.sqrt(2.0)
#: Neighbouring numbers whose heads are looked at together.
TOGETHER = 3
#: Drops are looked for from the largest of these up to so many times the smallest.
REACH = 3.2
#: Numbers whose drop leaves at most so many times the clearest one's ratio may be the truth as well.
NEARLY = 1.4
#: How many numbers are reported at which the eigengap of the neighbour graph is clearest.
WITNESSES = 3
#: Neighbours at most, whatever the smallest number of clusters: memory.
LARGEST_K_MAX = 1000
#: Heads of a pilot, whatever the training to come has: as many as have CLUSTERS clusters together, within these bounds.
#: Heads of a few clusters say little each: with 24 of them MNIST was found to have 8 to 11 classes, with 72 always 10.
FEWEST_HEADS, MOST_HEADS, CLUSTERS = 24, 72, 1200
#: A pilot has a third of the epochs, and ends where learning rate times steps reaches this: AdamW moves a weight by
#: about the rate in a step. Heads that have come much further divide classes all alike, and agree on the parts.
SHARE, TRAVEL = 3, 0.5
#: Fewest clusters that can be found: heads of as few as half of them are asked.
FEWEST = 4


@dataclass(frozen=True)
class Drop:
    """The evidence for one number of clusters."""

    clusters: int
    ratio: float
    """The eigenvalue after the last that would be kept over that one, in [0, 1]: the smaller, the clearer."""
    given: tuple[int, ...]
    """Numbers of clusters of the heads that show it best."""


@dataclass(frozen=True)
class CountEvidence:
    """The number of clusters chosen and why."""

    clusters: int
    curve: tuple[Drop, ...]
    """One for every number in reach, ascending."""
    graph: tuple[int, ...]
    """A second witness, as `graph_gaps` gives it."""

    @property
    def ratio(self) -> float:
        """Of the number chosen."""
        return next(drop.ratio for drop in self.curve if drop.clusters == self.clusters)

    @property
    def interval(self) -> tuple[int, int]:
        """The lowest and the highest number whose drop is nearly as clear as that of the one chosen."""
        clear = [drop.clusters for drop in self.curve if drop.ratio <= NEARLY * self.ratio]
        return clear[0], clear[-1]


def in_reach(n_rows: int, k_min: int, low: int, high: int) -> tuple[int, int]:
    """The range [low, high] without numbers that leave a cluster of `n_rows` images fewer than `k_min` of them.

    Raises ValueError if nothing is left.
    """
    most = min(high, n_rows // k_min)
    if most <= low:
        raise ValueError(
            f"{n_rows} images with k_min = {k_min} neighbours each are enough for {n_rows // k_min} clusters, and the "
            f"number is looked for from {low} on; lower k_min or the lowest number, or give the number of clusters"
        )
    return low, most


def counts_to_try(low: int, high: int) -> list[int]:
    """Numbers of clusters given to heads, evenly spaced in logarithm, from half of `low` up to some 0.6 of `high`.

    Raises ValueError unless FEWEST <= low < high.
    """
    if not FEWEST <= low < high:
        raise ValueError(f"a number of clusters is looked for in [{low}, {high}]; give {FEWEST} <= lowest < highest")
    first = low // 2
    found = [first]
    while len(found) < TOGETHER or int(found[-TOGETHER] * REACH) < high:
        found.append(max(found[-1] + 1, round(first * STEP ** len(found))))
    return found


def choose_clusters(
    features: Tensor,
    *,
    low: int,
    high: int,
    k_min: int,
    recipe: Recipe,
    seed: int,
    precision: Precision = "auto",
) -> CountEvidence:
    """The number of clusters that short trainings with many numbers of clusters agree on, without labels.

    Args:
        features: [n, D] float16 or float32, all images or a uniform sample of them; no row is zero.
        low, high: the number is looked for in [low, high].
        k_min: fewest neighbours, for so many images.
        recipe: of the training that is to come; each pilot is `brief`.
        seed: of the pilots.
        precision: of the products.

    Raises:
        ValueError: not FEWEST <= low < high, or fewer than two images per cluster.
    """
    rows = pilot_sample(features, high, seed)
    k_min = scaled(k_min, len(rows), len(features))
    lists = nearest(rows, low=low, high=high, k_min=k_min)
    labels = {
        n_clusters: labels_of(rows, lists, n_clusters, k_min=k_min, recipe=recipe, seed=seed, precision=precision)
        for n_clusters in counts_to_try(low, high)
    }
    return evidence(labels, low, high, graph_gaps(lists, low, high))


def nearest(features: Tensor, *, low: int, high: int, k_min: int) -> Neighbors:
    """Neighbours for the pilots of all numbers of clusters. Raises ValueError as `choose_clusters` does."""
    tried = counts_to_try(low, high)
    most = tried[-1]
    if 2 * most > len(features):
        raise ValueError(
            f"{len(features)} images are too few to look for up to {high} clusters, as heads of {most} clusters are "
            "trained for that and need two images each; lower the highest number"
        )
    k_max = min(default_k_max(len(features), tried[0], k_min), max(k_min, LARGEST_K_MAX))
    return mine(features, Limits(-1.0, k_min, k_max))


def labels_of(
    features: Tensor,
    lists: Neighbors,
    n_clusters: int,
    *,
    k_min: int,
    recipe: Recipe,
    seed: int,
    precision: Precision = "auto",
) -> NDArray[np.int32]:
    """Labels of the pilot with one number of clusters, int32[n, heads]; `lists` as from `nearest`."""
    n_rows = len(features)
    widest = Limits(-1.0, k_min, min(int(lists.counts.max()), default_k_max(n_rows, n_clusters, k_min)))
    short = brief(recipe, n_rows, n_clusters)
    return head_labels(features, lists, widest, n_clusters=n_clusters, recipe=short, seed=seed, precision=precision)


def brief(recipe: Recipe, n_rows: int, n_clusters: int) -> Recipe:
    """The recipe of a pilot: a part of the epochs, no further than `TRAVEL`, and as many heads as make CLUSTERS."""
    batch = min(recipe.batch_size, n_rows)
    per_epoch = recipe.learning_rate * batch / 256 * (n_rows // batch)
    epochs = max(1, min(recipe.epochs // SHARE, math.ceil(TRAVEL / per_epoch)))
    return pilot_recipe(
        recipe, heads=min(MOST_HEADS, max(FEWEST_HEADS, math.ceil(CLUSTERS / n_clusters))), epochs=epochs
    )


def evidence(
    labels: Mapping[int, NDArray[np.int32]], low: int, high: int, graph: tuple[int, ...] = ()
) -> CountEvidence:
    """The number of clusters in [low, high] with the clearest drop of the spectrum.

    Args:
        labels: by number of clusters given, ascending, int32[n, H] labels of the heads.
        low, high: numbers looked at.
        graph: what `graph_gaps` says, which is passed on.
    """
    best: dict[int, Drop] = {}
    given = list(labels)
    for first in range(len(given) - TOGETHER + 1):
        window = tuple(given[first : first + TOGETHER])
        reach = min(high, int(REACH * window[0]))
        values = spectrum([labels[count] for count in window], reach + 1)
        for clusters in range(max(low, window[-1]), min(reach, len(values) - 1) + 1):
            ratio = float(values[clusters] / values[clusters - 1])
            if clusters not in best or ratio < best[clusters].ratio:
                best[clusters] = Drop(clusters, ratio, window)
    curve = tuple(best[clusters] for clusters in sorted(best))
    return CountEvidence(min(curve, key=lambda drop: drop.ratio).clusters, curve, graph)


def graph_gaps(lists: Neighbors, low: int, high: int) -> tuple[int, ...]:
    """The numbers of clusters in [low, high] at which the eigengap of the neighbour graph is clearest, clearest first.

    A witness that asks no head (von Luxburg 2007, section 8.3): by the ratio of neighbouring eigenvalues of the
    normalised Laplacian of each row's nearest neighbours, mutual ones twice. It tells the number of compact classes,
    and of others rather that of superclasses: look at the images where it is far from what the heads say.
    """
    graph = nearest_of(lists, min(NEAREST, int(lists.counts.min()))).cpu().numpy()
    n_rows, k = graph.shape
    starts = np.arange(0, graph.size + 1, k)
    directed = sparse.csr_array((np.ones(graph.size), graph.ravel().astype(np.int64), starts), shape=(n_rows, n_rows))
    edges = directed + directed.T
    scale = sparse.diags_array(1.0 / np.sqrt(edges.sum(axis=0)))
    values = (1.0 - _largest(sparse.csr_matrix(scale @ edges @ scale), high + 1)).clip(1e-9)
    ratios = values[low:] / values[low - 1 : -1]
    return tuple((low + np.argsort(-ratios)[:WITNESSES]).tolist())


def spectrum(labels: Sequence[NDArray[np.integer]], count: int) -> NDArray[np.float64]:
    """The largest eigenvalues of the mean over heads of the projections onto the indicators of their clusters.

    Args:
        labels: int[n, H] of several sets of heads; heads may differ in their number of clusters.
        count: eigenvalues wanted.

    Returns:
        float64[at most count], descending in (0, 1]; the first is 1. There are as many as clusters that are used.
    """
    every = np.concatenate(labels, axis=1)
    members = incidence(every, head_offsets(check_labels(every)))
    sizes = np.asarray(members.sum(axis=0)).ravel()
    members = members[:, sizes > 0] @ sparse.diags_array(1.0 / np.sqrt(sizes[sizes > 0] * every.shape[1]))
    side = sparse.csr_matrix(members.T @ members)
    return _largest(side, count).clip(1e-12, 1.0)


def _largest(matrix: sparse.csr_matrix, count: int) -> NDArray[np.float64]:
    """The largest `count` eigenvalues of a symmetric matrix, or all if it has fewer, descending."""
    size = matrix.get_shape()[0]
    if count >= size - 1:
        return np.asarray(np.linalg.eigvalsh(matrix.toarray()), np.float64)[::-1][:count]
    start = np.random.default_rng(0).standard_normal(size)  # ARPACK would draw its own
    return np.sort(eigsh(matrix, k=count, v0=start, return_eigenvectors=False))[::-1]
