"""One way to run ICCE: what a row of a study is, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from icce_ray.core.neighbors import Limits, Neighbors, apply_limits, default_k_max
from icce_ray.core.recipe import Precision, Recipe
from icce_ray.core.search import mine, same_class

#: Lists are mined once a set with this threshold, for all thresholds above it and for equal numbers of neighbours.
LOWEST = -1.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings of one training and what follows it; the defaults are the paper's."""

    neighbors: Literal["adaptive", "fixed", "equal", "ground_truth"] = "adaptive"
    """`fixed`: the k_min nearest (TEMI); `equal`: for every row as many nearest as adaptive ones are on average;
    `ground_truth`: all rows of the anchor's class (paper Table 4)."""
    threshold: float = 0.3
    k_min: int = 50
    clusters: float = 1.0
    """Number of clusters over the true K (paper Table 8)."""
    recipe: Recipe = field(default_factory=Recipe)
    iterations: int = 600
    """Of the linear classifiers."""
    precision: Precision = "auto"
    """Of the matrix products."""

    def but(self, **changes: Any) -> Variant:
        """The same with other values; those that are not fields here are the recipe's."""
        own = {entry.name for entry in dataclasses.fields(self)}
        recipe = dataclasses.replace(self.recipe, **{k: v for k, v in changes.items() if k not in own})
        return dataclasses.replace(self, **{"recipe": recipe} | {k: v for k, v in changes.items() if k in own})

    def n_clusters(self, n_classes: int) -> int:
        """Clusters to find where there are so many classes."""
        return max(2, round(self.clusters * n_classes))


def mined(features: Tensor, n_classes: int, base: Variant) -> Neighbors:
    """Lists that serve every adaptive and fixed variant of a set."""
    k_max = default_k_max(len(features), n_classes, base.k_min)
    return mine(features, Limits(LOWEST, base.k_min, k_max))


def lists_of(variant: Variant, lowest: Neighbors, classes: Tensor) -> Neighbors:
    """The neighbours of a variant out of `mined` ones; `classes` int64[n] are read for `ground_truth` alone."""
    if variant.neighbors == "ground_truth":
        offsets, ids = same_class(classes, classes, torch.arange(len(classes)))
        return Neighbors(offsets, ids, torch.empty(0))
    k_max = int(lowest.counts.max())
    if variant.neighbors == "fixed":
        k_max = min(k_max, variant.k_min)
    adaptive = apply_limits(lowest, Limits(variant.threshold, variant.k_min, k_max))
    if variant.neighbors != "equal":
        return adaptive
    number = round(float(adaptive.counts.double().mean()))
    return apply_limits(lowest, Limits(1.0, number, number))
