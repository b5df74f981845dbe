"""The forward passes of one chunk of heads, where a step spends its time, and which torch.compile may fuse.

Rows of the teacher are the M neighbours of each anchor and then the anchors, those of the student the anchors and then
one neighbour of each: so each of the student's rows stands where what it learns from does.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from icce_ray.core import losses
from icce_ray.core.collectives import SINGLE_PROCESS
from icce_ray.core.heads import HeadChunk
from icce_ray.core.recipe import Recipe


class Assigned(NamedTuple):
    """Teacher probabilities that are not held but computed where they are read, `exp(score - columns - rows)`.

    A score is a product over its divisor. The products are held in the type they were computed in, so bfloat16 halves
    the bytes of every read and rounds nothing more.
    """

    products: Tensor
    """[h, rows, K], bfloat16 or float32."""
    divisor: Tensor
    """float32[h, rows, 1]."""
    columns: Tensor
    """float32[h, 1, K]."""
    rows: Tensor
    """float32[h, rows, 1]."""

    def probabilities(self) -> Tensor:
        """float32[h, rows, K]."""
        return (self.products / self.divisor - self.columns - self.rows).exp()


#: Of one chunk: what its students learn from, as `taught` or `Assigned`, the mass of each cluster float32[h, K], and
#: how far the teachers agree on each pair, float32[b].
Taught = tuple[Tensor | Assigned, Tensor, Tensor]


def teacher_scores(recipe: Recipe, chunk: HeadChunk, x: Tensor) -> Tensor:
    """Logits of teachers over their temperature, float32[h, rows, K], of inputs [rows, D]."""
    return chunk.logits(x, temperature=recipe.teacher_temperature)


def teach(recipe: Recipe, chunk: HeadChunk, x: Tensor, pairs: int) -> Taught:
    """Targets of teachers, where the inputs `x` [rows, D] of `pairs` pairs are the whole batch."""
    scores = teacher_scores(recipe, chunk, x)
    if recipe.teacher == "softmax":
        return taught(recipe, scores.softmax(-1), pairs)
    (probabilities,) = losses.sinkhorn([scores], SINGLE_PROCESS, iterations=recipe.sinkhorn_iterations)
    return taught(recipe, probabilities, pairs)


def taught(recipe: Recipe, probabilities: Tensor, pairs: int) -> Taught:
    """What follows from teacher probabilities float32[h, rows, K]."""
    targets = smoothed(recipe, probabilities, pairs)
    return targets, probabilities.sum(1), losses.pair_weight(targets)


def teach_unheld(recipe: Recipe, chunk: HeadChunk, x: Tensor, pairs: int) -> Taught:
    """As `teach`, for compiled code: nothing of the shape of the scores is written but the products."""
    products, divisor = chunk.products(x, temperature=recipe.teacher_temperature)
    scores = products / divisor
    if recipe.teacher == "softmax":
        columns, rows = torch.zeros_like(scores[:, :1]), losses.log_sum_exp(scores, 2)
    else:
        columns, rows = losses.sinkhorn_potentials(scores, iterations=recipe.sinkhorn_iterations)
    assigned = Assigned(products, divisor, columns, rows)
    _, mass, agreement = taught(recipe, assigned.probabilities(), pairs)
    return assigned, mass, agreement


def smoothed(recipe: Recipe, probabilities: Tensor, pairs: int) -> Tensor:
    """Targets [h, 2 b, K] of teacher probabilities [h, (M + 1) b, K].

    What an anchor learns from is the mean over its M neighbours (multiple-neighbour smoothing; M = 1 is the plain one).
    """
    m = recipe.smoothing_neighbors
    if m == 1:
        return probabilities
    neighbors = probabilities[:, : m * pairs].unflatten(1, (m, pairs)).mean(1)
    return torch.cat([neighbors, probabilities[:, m * pairs :]], dim=1)


def student_losses(
    recipe: Recipe,
    chunk: HeadChunk,
    x: Tensor,
    target: Tensor | Assigned,
    *,
    marginal: Tensor,
    weight: Tensor,
    ramp: Tensor | None,
    pairs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`losses.objective` of students on `x` [2 b, D], anchors and then one neighbour of each.

    Means are over `pairs` pairs, those of the whole batch, and all heads of the recipe.
    """
    scores = chunk.logits(x, temperature=recipe.student_temperature)
    if isinstance(target, Assigned):
        target = smoothed(recipe, target.probabilities(), len(x) // 2)
    return losses.objective(
        scores, target, marginal=marginal, weight=weight, beta=recipe.beta, ramp=ramp, shares=(pairs, recipe.heads)
    )
