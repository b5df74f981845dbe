"""What the estimator does in memory: what neighbours and heads see of each feature space, and the training of heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.automatic import Choice
from icce_ray.core.consensus import Partitioners
from icce_ray.core.neighbors import Limits, Neighbors, default_k_max
from icce_ray.core.parameters import directed_rows, named
from icce_ray.core.pilot import choose_threshold
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.recipe import Recipe
from icce_ray.core.spaces import join, weights
from icce_ray.core.training import HeadTrainer

#: Rows labelled at once: activations of a few heads on 8192 rows are some hundred MB at most.
LABEL_ROWS = 8192

Choose = Callable[[int, dict[str, Any]], Choice]
"""The recipe for a number of clusters and the facts of `automatic`."""


@dataclass(frozen=True)
class Seen:
    """What neighbours and heads see of one space."""

    inputs: Tensor
    """[N, C] of all rows."""
    directed: Tensor
    """bool[N]: rows that are not zero, and so have a direction."""
    facts: dict[str, Any]
    """`n_images`, `dim` and `mean_cosine` of these, and the `components` of the projection."""

    @classmethod
    def of(cls, features: Tensor, choose: Choose, name: str = "X") -> Seen:
        """Of features [N, D], projected where the recipe says so.

        Raises ValueError naming `name` for fewer than 2 rows that are not zero, or too large values.
        """
        directed = directed_rows(features, name)
        rows = features if directed.all() else features[directed]
        moments = Moments.of(rows)
        facts = {"n_images": len(rows), "dim": rows.shape[1], "mean_cosine": moments.mean_cosine}
        components = choose(1, facts).components  # which do not depend on the clusters
        inputs = Projection.of(moments, components).apply(features) if components else features
        return cls(inputs, directed, facts | {"components": components})

    @property
    def rows(self) -> Tensor:
        """The inputs of the rows that have a direction: a zero row trains nothing and is labelled like a new one."""
        return self.inputs if self.directed.all() else self.inputs[self.directed]


def spaces_of(
    matrices: Sequence[Tensor], choose: Choose, n_clusters: int | None, seed: int
) -> tuple[list[Seen], tuple[float, ...]]:
    """What is seen of each matrix and, where they are several, of the joined space at the end; and their weights.

    `n_clusters` is None where their number is not known. Raises ValueError as `Seen.of`.
    """
    spaces = [Seen.of(matrix, choose, name) for name, matrix in named(matrices).items()]
    if len(spaces) == 1:
        return spaces, (1.0,)
    shares = weights([space.rows for space in spaces], n_clusters, seed)
    parts = [(space.inputs * space.directed[:, None]).cpu().numpy() for space in spaces]
    inputs = torch.from_numpy(join(parts, shares)).to(matrices[0].device)
    directed = inputs.any(dim=1)
    components = sum(space.facts["components"] for space in spaces)
    facts = {"n_images": int(directed.sum()), "dim": inputs.shape[1], "mean_cosine": 0.0, "components": components}
    return [*spaces, Seen(inputs, directed, facts)], shares


@dataclass(frozen=True)
class LimitsOf:
    """The limits of the neighbours of any space; a threshold "auto" is found by a pilot training in each."""

    choice: Choice
    n_clusters: int
    k_max: int | None
    recipe: Recipe
    seed: int
    partitioners: Partitioners

    def of(self, rows: Tensor) -> Limits:
        """For these rows [n, C]."""
        k_min, threshold = self.choice.k_min, self.choice.threshold
        k_max = self.k_max or default_k_max(len(rows), self.n_clusters, k_min)
        if isinstance(threshold, str):
            threshold = choose_threshold(
                rows,
                n_clusters=self.n_clusters,
                widest=Limits(-1.0, k_min, k_max),
                recipe=self.recipe,
                seed=self.seed,
                partitioners=self.partitioners,
            ).threshold
        return Limits(threshold, k_min, k_max)


def train(
    used: Sequence[tuple[Seen, Neighbors, int]],
    *,
    n_clusters: int,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int, Tensor], None],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Train so many heads of each space on the neighbours of its rows, one space after the other.

    `on_epoch` gets the epochs done, of all spaces, and the TEMI losses of each head of the space, float32[h].
    Returns the labels of all rows, int32[N, H], and the losses, float32[epochs, H].
    """
    labels, losses = [], []
    for number, (space, neighbors, heads) in enumerate(used):
        own = replace(recipe, heads=heads)
        trainer = HeadTrainer(space.rows, neighbors, n_clusters=n_clusters, recipe=own, seed=seed)
        found: list[Tensor] = []
        for epoch in range(recipe.epochs):
            found.append(trainer.run_epoch().temi)
            on_epoch(number * recipe.epochs + epoch + 1, found[-1])
        blocks = [trainer.labels(block).cpu().numpy() for block in space.inputs.split(LABEL_ROWS)]
        labels.append(np.concatenate(blocks))
        losses.append(torch.stack(found).cpu().numpy())
    return np.ascontiguousarray(np.concatenate(labels, axis=1)), np.concatenate(losses, axis=1)
