"""A threshold without labels: how many neighbours are of the anchor's class, estimated from a short training (ours).

The paper's threshold of 0.3 suits the similarities of one backbone; what it should achieve is many neighbours of which
few are wrong (paper 3.1). How many are wrong cannot be read off similarities. But the consensus of a few heads after a
short training, itself far from right, tells it well: the share of neighbour pairs with one label was within 1.5
points of the share with one class on digits, 6 on synthetic features, 7 on MNIST and 12 on sign digits, where no
clustering is right for more than six images of ten (jobs/paper/RESULTS.md shows every third threshold).

So one pilot training, at a middling threshold, gives the accuracy of the neighbours at every threshold, and the lowest
threshold is taken at which it still reaches a floor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.consensus.clusters import Partitioners
from icce_ray.core.consensus.ensemble import consensus
from icce_ray.core.neighbors import Limits, Neighbors, apply_limits
from icce_ray.core.recipe import Execution, Precision, Recipe
from icce_ray.core.sampling import uniform_rows
from icce_ray.core.search import mine
from icce_ray.core.selection import pair_accuracy
from icce_ray.core.training import HeadTrainer

#: Images of a pilot at most, but enough for each cluster.
ROWS, ROWS_A_CLUSTER = 20_000, 50
#: Heads at most and the share of the epochs: a training of 50 heads takes 12 times as long.
HEADS, SHARE = 12, 3
#: Estimated accuracy that is asked for, and as a share of the best where no threshold reaches that (see RESULTS.md).
FLOOR, RELATIVE_FLOOR = 0.94, 0.97
#: Thresholds at which the accuracy is estimated.
POINTS = 24
_LABEL_ROWS = 8192


@dataclass(frozen=True)
class Point:
    """What a threshold leads to on the images of the pilot."""

    threshold: float
    mean_neighbors: float
    accuracy: float
    """Estimated share of neighbour pairs of one class, in [0, 1]."""


@dataclass(frozen=True)
class Evidence:
    """The threshold chosen and why."""

    threshold: float
    floor: float
    """Estimated accuracy asked for."""
    curve: tuple[Point, ...]
    """Descending in threshold."""


def pilot_rows(n_rows: int, n_clusters: int) -> int:
    """Rows of a pilot, of which `sampling.uniform_rows` chooses as many."""
    return min(n_rows, max(ROWS, ROWS_A_CLUSTER * n_clusters))


def pilot_sample(features: Tensor, n_clusters: int, seed: int) -> Tensor:
    """The rows of a pilot; all of a sample that is one already."""
    rows = uniform_rows(len(features), pilot_rows(len(features), n_clusters), seed)
    return features[torch.from_numpy(rows).to(features.device)]


def scaled(limit: int, sample: int, n_rows: int) -> int:
    """A limit on neighbours among `n_rows` rows for a sample of them, at least 1."""
    return max(1, round(limit * sample / n_rows))


def choose_threshold(
    features: Tensor,
    *,
    n_clusters: int,
    widest: Limits,
    recipe: Recipe,
    seed: int,
    partitioners: Partitioners,
    precision: Precision = "auto",
) -> Evidence:
    """The lowest threshold whose neighbours are right often enough, without labels.

    Args:
        features: [n, D] float16 or float32, all images or a uniform sample of them; no row is zero.
        n_clusters: K >= 2.
        widest: k_min and k_max for so many images, and the threshold -1.
        recipe: of the training that is to come.
        seed: of the pilot.
        partitioners: for MCLA.
        precision: of the products.

    Raises:
        ValueError: fewer than 2 clusters.
        ConsensusSizeError: fewer images than clusters.
    """
    if n_clusters < 2:
        raise ValueError(f"n_clusters = {n_clusters}: a threshold is chosen for at least 2 clusters; give a number")
    rows = pilot_sample(features, n_clusters, seed)
    widest = Limits(-1.0, *(scaled(limit, len(rows), len(features)) for limit in (widest.k_min, widest.k_max)))
    lists = mine(rows, widest)
    short = pilot_recipe(recipe, heads=min(HEADS, recipe.heads), epochs=max(1, recipe.epochs // SHARE))
    labels = head_labels(rows, lists, widest, n_clusters=n_clusters, recipe=short, seed=seed, precision=precision)
    label = consensus(labels, n_clusters, partitioners, methods=("mcla",), seed=seed).label
    return lowest(estimated(lists, torch.from_numpy(label).to(rows.device), candidates(lists, widest), widest))


def head_labels(
    features: Tensor,
    lists: Neighbors,
    widest: Limits,
    *,
    n_clusters: int,
    recipe: Recipe,
    seed: int,
    precision: Precision = "auto",
) -> NDArray[np.int32]:
    """Labels of a training on the neighbours of a middling threshold, int32[n, heads].

    `lists` are the k_max nearest of every row or more, with similarities; `widest` as in `choose_threshold`.
    """
    nearest = apply_limits(lists, widest)
    thresholds = candidates(nearest, widest)
    middle = apply_limits(nearest, replace(widest, threshold=thresholds[len(thresholds) // 2]))
    execution = Execution(precision=precision)  # not compiled: that takes longer than so short a training
    trainer = HeadTrainer(features, middle, n_clusters=n_clusters, recipe=recipe, seed=seed, execution=execution)
    for _ in range(recipe.epochs):
        trainer.run_epoch()
    return torch.cat([trainer.labels(rows) for rows in features.split(_LABEL_ROWS)]).cpu().numpy()


def pilot_recipe(recipe: Recipe, *, heads: int, epochs: int) -> Recipe:
    """The recipe of a pilot: fewer heads and epochs, and no cross-entropy, which comes late in a training."""
    warmup = min(recipe.warmup_epochs, max(1, epochs // 5))
    return replace(recipe, heads=heads, epochs=epochs, warmup_epochs=warmup, ce_weight=0.0)


def candidates(lists: Neighbors, widest: Limits, count: int = POINTS) -> list[float]:
    """Descending thresholds whose mean numbers of neighbours, within [k_min, k_max], lie evenly in logarithm.

    `lists` are the k_max nearest of every row, with similarities. The last is one at which hardly a pair is left out.
    """
    first = torch.repeat_interleave(lists.offsets[:-1], lists.counts)
    rank = torch.arange(len(lists.ids), device=first.device) - first
    # Those that a threshold decides on.
    free = lists.similarities[rank >= widest.k_min].sort(descending=True).values
    if not len(free):
        return [1.0]
    most = widest.k_max / widest.k_min
    share = (torch.logspace(0, 1, count + 1, base=most, dtype=torch.float64) - 1)[1:] / (most - 1)
    places = (share.clamp_max(0.99) * len(free)).long().clamp_max(len(free) - 1)
    return sorted(set(free[places].tolist()), reverse=True)


def estimated(lists: Neighbors, label: Tensor, thresholds: list[float], widest: Limits) -> tuple[Point, ...]:
    """Mean neighbours and estimated accuracy at each threshold; `label` int[n] takes the place of the classes."""
    points = []
    for threshold in thresholds:
        cut = apply_limits(lists, replace(widest, threshold=threshold))
        points.append(Point(threshold, float(cut.counts.double().mean()), pair_accuracy(cut, label)))
    return tuple(points)


def lowest(curve: tuple[Point, ...]) -> Evidence:
    """The lowest threshold whose estimated accuracy reaches the floor, ignoring dips above it."""
    floor = min(FLOOR, RELATIVE_FLOOR * max(point.accuracy for point in curve))
    chosen = min((point for point in curve if point.accuracy >= floor), key=lambda point: point.threshold)
    return Evidence(chosen.threshold, floor, curve)
