"""Operations and bytes of training, from its sizes: what a plan and a measurement divide by seconds.

A multiply-add counts as two operations. Held against what torch counts by tests/unit/planning/test_cost.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from icce_ray.core.heads import head_shapes, heads_per_chunk
from icce_ray.core.recipe import Recipe

#: Bytes a step moves for each logit of each head and row, all in float32: the tensors of that shape which the losses
#: and Sinkhorn read and write, and as many again on the way back through the student's part, taken as 60 passes.
LOGIT_BYTES = 60 * 4
#: Bytes a step moves for each parameter: parameter, gradient and two moments read and written by AdamW, parameter and
#: teacher read and teacher written by the moving average, float32.
UPDATE_BYTES = 11 * 4


@dataclass(frozen=True)
class HeadCost:
    """Of heads of `recipe` with inputs of `dim` numbers and a batch of `batch` pairs."""

    recipe: Recipe
    dim: int
    n_clusters: int
    batch: int

    @property
    def _sizes(self) -> list[tuple[int, ...]]:
        recipe = self.recipe
        return list(head_shapes(self.dim, recipe.hidden, recipe.bottleneck, self.n_clusters).values())

    @property
    def parameters(self) -> int:
        """Of one head."""
        return sum(math.prod(shape) for shape in self._sizes)

    @property
    def products(self) -> int:
        """Multiply-adds of one row through one head."""
        return sum(math.prod(shape) for shape in self._sizes if len(shape) == 2)

    @property
    def rows(self) -> int:
        """Inputs of a step: anchors and the neighbours whose teacher outputs are averaged."""
        return (1 + self.recipe.smoothing_neighbors) * self.batch

    def step_flops(self) -> float:
        """Operations of one step of all heads: the teacher forward on `rows`, the student forth and back on the pairs.

        Backward takes twice the forward, but for the gradient of the first layer's input, which nobody needs.
        """
        student = 3 * self.products - self.dim * self.recipe.hidden
        return 2.0 * self.recipe.heads * (self.rows * self.products + 2 * self.batch * student)

    def step_bytes(self) -> float:
        """Bytes that one step of all heads moves beside its matrix products."""
        return float(self.recipe.heads) * (LOGIT_BYTES * self.rows * self.n_clusters + UPDATE_BYTES * self.parameters)

    def memory(self, heads: int, device: str) -> float:
        """Bytes of training so many heads, beside features and neighbours.

        Networks, gradients and moments; activations of one chunk of heads; targets.
        """
        widest = max(self.recipe.hidden, self.n_clusters)
        chunk = heads_per_chunk(torch.device(device), n_heads=heads, rows=self.rows, widest=widest)
        widths = 2 * self.recipe.hidden + 2 * self.recipe.bottleneck + 6 * self.n_clusters
        return 4.0 * (5 * heads * self.parameters + self.rows * (chunk * widths + heads * self.n_clusters))


def grid_flops(*, batch: int, widths: Sequence[int], rates: int, n_classes: int) -> float:
    """Operations of one iteration of `linear.LinearGrid`: the product and its gradient, for every input."""
    return 4.0 * batch * rates * n_classes * sum(width + 1 for width in widths)
