"""One way to run ICCE: what a row of a study is, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from icce_ray.core.cleaning import agreeing, mutual, shared
from icce_ray.core.neighbors import Neighbors, default_k_max, narrow
from icce_ray.core.recipe import Precision, Recipe
from icce_ray.core.search import mine, same_class

#: Lists are mined once a set with this threshold, for all thresholds above it.
LOWEST = 0.1


Cleaning = Literal["none", "mutual", "shared", "agreement", "true"]
_OF_CLEANING = ("cleaning", "level", "loosened")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings of one training and what follows it; the defaults are the paper's."""

    neighbors: Literal["adaptive", "fixed", "ground_truth"] = "adaptive"
    """`fixed`: the k_min nearest (TEMI); `ground_truth`: all rows of the anchor's class (paper Table 4)."""
    threshold: float = 0.3
    k_min: int = 50
    clusters: float = 1.0
    """Number of clusters over the true K (paper Table 8)."""
    recipe: Recipe = field(default_factory=Recipe)
    iterations: int = 600
    """Of the linear classifiers."""
    precision: Precision = "auto"
    """Of the matrix products."""
    cleaning: Cleaning = "none"
    """Filter of `core.cleaning` on the lists; `agreement` is of a first training of the same variant without it, `true`
    keeps the pairs of one class: the upper end of all filters."""
    level: float = 0.8
    """What the filter asks for, in [0, 1]: the overlap of neighbourhoods, or the share of heads."""
    loosened: float = 0.0
    """By how much the threshold is lowered for the lists that are filtered, though not below `LOWEST`."""

    @property
    def values(self) -> dict[str, Any]:
        """Fields that have a meaning, as plain values: those of cleaning only where there is any."""
        values = dataclasses.asdict(self)
        return values if self.cleaning != "none" else {k: v for k, v in values.items() if k not in _OF_CLEANING}

    def but(self, **changes: Any) -> Variant:
        """The same with other values; those that are not fields here are the recipe's."""
        own = {entry.name for entry in dataclasses.fields(self)}
        recipe = dataclasses.replace(self.recipe, **{k: v for k, v in changes.items() if k not in own})
        return dataclasses.replace(self, **{"recipe": recipe} | {k: v for k, v in changes.items() if k in own})

    @property
    def uncleaned(self) -> Variant:
        """The same on the lists as they were mined."""
        return self.but(cleaning="none", level=Variant.level, loosened=Variant.loosened)

    def n_clusters(self, n_classes: int) -> int:
        """Clusters to find where there are so many classes."""
        return max(2, round(self.clusters * n_classes))


def mined(features: Tensor, n_classes: int, base: Variant) -> Neighbors:
    """Lists that serve every adaptive and fixed variant of a set."""
    k_max = default_k_max(len(features), n_classes, base.k_min)
    return mine(features, threshold=min(LOWEST, base.threshold), k_min=base.k_min, k_max=k_max)


def lists_of(variant: Variant, lowest: Neighbors, classes: Tensor) -> Neighbors:
    """The neighbours of a variant out of `mined` ones; `classes` int64[n] are read for `ground_truth` and `true`
    alone.

    Those for `agreement` are not filtered yet: `measure.Measured.lists` does it, as it takes a training.
    """
    if variant.neighbors == "ground_truth":
        offsets, ids = same_class(classes, classes, torch.arange(len(classes)))
        return Neighbors(offsets, ids, torch.empty(0))
    k_max = int(lowest.counts.max())
    if variant.neighbors == "fixed":
        k_max = min(k_max, variant.k_min)
    threshold = variant.threshold
    if variant.cleaning != "none":
        threshold = max(threshold - variant.loosened, min(threshold, LOWEST))
    lists = narrow(lowest, threshold=threshold, k_min=variant.k_min, k_max=k_max)
    if variant.cleaning == "mutual":
        return mutual(lists, variant.k_min)
    if variant.cleaning == "shared":
        return shared(lists, variant.level, variant.k_min)
    if variant.cleaning == "true":
        return agreeing(lists, classes[:, None], 1.0, 1)
    return lists
