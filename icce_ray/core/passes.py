"""Forward passes of one chunk of heads: what a training step spends its time on, and what torch.compile may fuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icce_ray.core import objectives
from icce_ray.core.heads import HeadChunk
from icce_ray.core.recipe import Recipe
from icce_ray.core.sinkhorn import sinkhorn


@dataclass(frozen=True)
class Passes:
    """The passes of a recipe; products in the type of the inputs (float32 or bfloat16), all else in float32."""

    recipe: Recipe

    def scores(self, chunk: HeadChunk, x: Tensor) -> Tensor:
        """Logits of teachers over their temperature, float32[h, rows, K], of inputs [rows, D]."""
        return chunk.logits(x, temperature=self.recipe.teacher_temperature)

    def probabilities(self, chunk: HeadChunk, x: Tensor) -> Tensor:
        """Teacher probabilities of each row, float32[h, rows, K], where the rows are the whole batch."""
        scores = self.scores(chunk, x)
        if self.recipe.teacher == "sinkhorn":
            return sinkhorn(scores, iterations=self.recipe.sinkhorn_iterations)
        return scores.softmax(-1)

    def losses(
        self,
        chunk: HeadChunk,
        x: Tensor,
        targets: tuple[Tensor, Tensor],
        *,
        marginal: Tensor,
        weight: Tensor,
        pairs: int,
    ) -> tuple[Tensor, Tensor]:
        """TEMI and CE loss of students, float32[h] each, the latter zero where the recipe leaves it out.

        `x` [2 b, D] are anchors, then one neighbour of each; `targets` the teacher's probabilities of both, [h, b, K];
        means are over `pairs` pairs, those of the whole batch.
        """
        student = chunk.logits(x, temperature=self.recipe.student_temperature).log_softmax(-1)
        half = len(x) // 2
        views = (student[:, :half], student[:, half:], *targets)
        temi = objectives.temi_loss(*views, marginal=marginal, weight=weight, beta=self.recipe.beta, pairs=pairs)
        if not self.recipe.ce_weight:
            return temi, torch.zeros_like(temi)
        return temi, objectives.cross_entropy_loss(*views, pairs=pairs)
