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

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.consensus.ensemble import consensus
from icce_ray.core.consensus.partitioning import Partitioners
from icce_ray.core.neighbors import Neighbors, narrow
from icce_ray.core.recipe import Execution, Precision, Recipe
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


def scaled(limit: int, sample: int, n_rows: int) -> int:
    """A limit on neighbours among `n_rows` rows for a sample of them, at least 1."""
    return max(1, round(limit * sample / n_rows))


def choose_threshold(
    features: Tensor,
    *,
    n_clusters: int,
    k_min: int,
    k_max: int,
    recipe: Recipe,
    seed: int,
    partitioners: Partitioners,
    precision: Precision = "auto",
    on_epoch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evidence:
    """The lowest threshold whose neighbours are right often enough, without labels.

    Args:
        features: [n, D] float16 or float32, all images or a uniform sample of them; no row is zero.
        n_clusters: K >= 2.
        k_min, k_max: limits of the lists for so many images (`scaled` to the sample).
        recipe: of the training that is to come.
        seed: of the pilot.
        partitioners: for MCLA.
        precision: of the products.
        on_epoch: called with epochs done and their number.

    Raises:
        ValueError: fewer than 2 clusters.
        ConsensusSizeError: fewer images than clusters.
    """
    if n_clusters < 2:
        raise ValueError(f"n_clusters = {n_clusters}: a threshold is chosen for at least 2 clusters; give a number")
    lists = mine(features, threshold=-1.0, k_min=k_min, k_max=k_max)
    labels = head_labels(
        features,
        lists,
        n_clusters=n_clusters,
        k_min=k_min,
        k_max=k_max,
        recipe=shortened(recipe),
        seed=seed,
        precision=precision,
        on_epoch=on_epoch,
    )
    label = consensus(
        labels,
        n_clusters,
        partitioners,
        methods=("mcla",),
        seed=seed,
    ).label
    thresholds = candidates(lists, k_min, k_max)
    return lowest(estimated(lists, torch.from_numpy(label).to(features.device), thresholds, k_min, k_max))


def head_labels(
    features: Tensor,
    lists: Neighbors,
    *,
    n_clusters: int,
    k_min: int,
    k_max: int,
    recipe: Recipe,
    seed: int,
    precision: Precision = "auto",
    on_epoch: Callable[[int, int], None] = lambda _done, _total: None,
) -> NDArray[np.int32]:
    """Labels of a training on the neighbours of a middling threshold, int32[n, heads].

    `lists` are the k_max nearest of every row or more, with similarities.
    """
    nearest = narrow(lists, threshold=-1.0, k_min=k_min, k_max=k_max)
    thresholds = candidates(nearest, k_min, k_max)
    middle = narrow(nearest, threshold=thresholds[len(thresholds) // 2], k_min=k_min, k_max=k_max)
    trainer = HeadTrainer(
        features, middle, n_clusters=n_clusters, recipe=recipe, seed=seed, execution=Execution(precision=precision)
    )
    for epoch in range(recipe.epochs):
        trainer.run_epoch()
        on_epoch(epoch + 1, recipe.epochs)
    teacher = trainer.gather_teacher()
    return torch.cat([trainer.labels(rows, teacher) for rows in features.split(_LABEL_ROWS)]).cpu().numpy()


def shortened(recipe: Recipe) -> Recipe:
    """The recipe of a pilot: fewer heads and epochs, and no cross-entropy, which comes late in a training."""
    epochs = max(1, recipe.epochs // SHARE)
    warmup = min(recipe.warmup_epochs, max(1, epochs // 5))
    heads = min(HEADS, recipe.heads)
    return dataclasses.replace(recipe, heads=heads, epochs=epochs, warmup_epochs=warmup, ce_weight=0.0)


def candidates(lists: Neighbors, k_min: int, k_max: int, count: int = POINTS) -> list[float]:
    """Descending thresholds whose mean numbers of neighbours, within [k_min, k_max], lie evenly in logarithm.

    `lists` are the k_max nearest of every row, with similarities. The last is one at which hardly a pair is left out.
    """
    first = torch.repeat_interleave(lists.offsets[:-1], lists.counts)
    rank = torch.arange(len(lists.ids), device=first.device) - first
    free = lists.similarities[rank >= k_min].sort(descending=True).values  # those that a threshold decides on
    if not len(free):
        return [1.0]
    share = (torch.logspace(0, 1, count + 1, base=k_max / k_min, dtype=torch.float64) - 1)[1:] / (k_max / k_min - 1)
    places = (share.clamp_max(0.99) * len(free)).long().clamp_max(len(free) - 1)
    return sorted(set(free[places].tolist()), reverse=True)


def estimated(lists: Neighbors, label: Tensor, thresholds: list[float], k_min: int, k_max: int) -> tuple[Point, ...]:
    """Mean neighbours and estimated accuracy at each threshold; `label` int[n] takes the place of the classes."""
    cuts = [narrow(lists, threshold=threshold, k_min=k_min, k_max=k_max) for threshold in thresholds]
    return tuple(
        Point(threshold, float(cut.counts.double().mean()), pair_accuracy(cut, label))
        for threshold, cut in zip(thresholds, cuts, strict=True)
    )


def lowest(curve: tuple[Point, ...]) -> Evidence:
    """The lowest threshold whose estimated accuracy reaches the floor, ignoring dips above it."""
    floor = min(FLOOR, RELATIVE_FLOOR * max(point.accuracy for point in curve))
    chosen = min((point for point in curve if point.accuracy >= floor), key=lambda point: point.threshold)
    return Evidence(chosen.threshold, floor, curve)
