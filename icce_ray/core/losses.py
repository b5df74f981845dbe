"""Losses and targets of the clustering heads (paper 3.1, eq. 1-3; TEMI, arXiv 2303.17896), batched over heads.

Shapes: h heads of a chunk, B anchors, K clusters. The views are the anchors x and one neighbour x' of each. Means are
over as many pairs as the caller says: a worker that holds a part of a batch gives its share of the whole batch's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from icce_ray.core.collectives import Collectives, all_reduce, all_reduce_logsumexp

#: The least mass an estimated prior gives a cluster, in units of 1 / K: one that lost all could never win an image.
PRIOR_FLOOR = 0.1
#: Share of the mass below which a column counts as empty: its factor and what it multiplies stay within float32.
LEAST_SHARE = 1e-30


def ce_weight(step: int, total_steps: int, maximum: float) -> float:
    """Weight of the cross-entropy term, `maximum * (1 - cos(pi t / T)) / 2`: a cosine ramp from 0 (paper 3.1)."""
    return maximum * (1.0 - math.cos(math.pi * step / total_steps)) / 2.0


def pair_weight(targets: Tensor) -> Tensor:
    """`sum over heads and clusters of p_t(k|x) p_t(k|x')` of the probabilities of both views [h, 2 B, K], float32[B].

    Divided by the number of all heads it is TEMI's w(x, x'): how much the teachers agree that the pair belongs
    together. It carries no gradient, and is a sum so that chunks of heads add up.
    """
    pairs = targets.shape[1] // 2
    return (targets[:, :pairs] * targets[:, pairs:]).sum((0, 2))


def objective(
    scores: Tensor,
    targets: Tensor,
    *,
    marginal: Tensor,
    weight: Tensor,
    beta: float,
    ramp: Tensor | None,
    shares: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """What the students minimise, a scalar, and its parts without gradient: TEMI and CE loss of each head, float32[h].

    TEMI is the mean over pairs of `-1/2 w(x, x') (pmi(x, x') + pmi(x', x))`, where pmi(x, x') is
    `log sum_k (p_s(k|x) p_t(k|x'))^beta / p~(k)` (TEMI eq. 4); CE the mean of each view's cross-entropy against the
    teacher's pseudo-label of the other (paper eq. 1-2).

    Args:
        scores: logits of the students [h, 2 B, K], both views, over their temperature.
        targets: teacher probabilities [h, 2 B, K]; a row is what the same row of `scores` learns from, of the other
            view. They carry no gradient.
        marginal: p~, float32[h, K].
        weight: w, float32[B].
        beta: of TEMI.
        ramp: weight of CE, a scalar tensor; None leaves CE out, which is zero then.
        shares: over how many (pairs, heads) the means are.
    """
    pairs, heads = shares
    slope = (weight * (beta / (2 * pairs * heads))).repeat(2)[:, None]
    hard = None if ramp is None else ramp / (2 * pairs * heads)
    pmi, picked, loss = _Objective.apply(scores, targets, marginal, slope, hard, beta)  # pyright: ignore
    temi = (pmi * weight.repeat(2)).sum(1) / (-2 * pairs)
    return loss, temi, picked.sum(1) / (-2 * pairs)


class _Objective(torch.autograd.Function):
    """`sum slope / beta * pmi + hard * picked` over heads and rows, negative; also pmi and the log-probability picked.

    The gradient is written out and found on the way forward, where all it is made of is at hand: one pass over the
    scores and targets instead of one for each loss, each view and each way.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, targets: Tensor, marginal: Tensor, slope: Tensor, hard: Tensor | None, beta: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        tiny = torch.finfo(targets.dtype).tiny
        log_p = scores.log_softmax(-1)
        # In the log domain the gradient of p^beta, unbounded at 0, never appears.
        joint = targets.clamp_min(tiny).log_().mul_(beta).sub_(marginal.clamp_min(tiny).log()[:, None])
        joint.add_(log_p, alpha=beta)
        peak = joint.amax(-1, keepdim=True)
        joint.sub_(peak).exp_()
        mass = joint.sum(-1, keepdim=True)
        pmi = mass.log().add_(peak).squeeze(-1)
        loss = (pmi * slope.squeeze(-1)).sum() / -beta
        if hard is None:
            picked = torch.zeros_like(pmi)
            gradient = log_p.exp_().mul_(slope).addcmul_(joint, slope / mass, value=-1.0)
        else:
            label = targets.argmax(-1, keepdim=True)
            picked = _at(log_p, label)
            loss = loss - hard * picked.sum()
            gradient = log_p.exp_().mul_(slope + hard).addcmul_(joint, slope / mass, value=-1.0)
            gradient = _less_at(gradient, label, hard)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(pmi, picked)
        return pmi, picked, loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        # The backward pass starts at this loss, with a one: multiplying by it would be one more pass.
        return *ctx.saved_tensors, None, None, None, None, None


# One entry of each row, `place` int64[..., 1] of `rows` [..., K]. Compiled, a comparison with all places is a part of
# the pass under way, where a gather or a scatter would be a kernel of its own, over rows written for it.


def _at(rows: Tensor, place: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.where(_places(rows) == place, rows, 0.0).sum(-1)
    return rows.gather(-1, place).squeeze(-1)


def _less_at(rows: Tensor, place: Tensor, amount: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.where(_places(rows) == place, rows - amount, rows)
    return rows.scatter_add_(-1, place, (-amount).expand(place.shape))


def _places(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[-1], device=rows.device)


def sinkhorn(chunks: Sequence[Tensor], workers: Collectives, *, iterations: int) -> list[Tensor]:
    """Assignments that use all clusters evenly (Sinkhorn-Knopp; Caron et al. 2020; paper 3.1, "Bag of Tricks").

    `chunks` are scores float32[h, rows, K], logits already divided by the teacher's temperature, of several chunks of
    heads. The rows of all workers are the whole batch, all views; a worker may have none. `Q = exp(scores)` is scaled
    `iterations` >= 1 times, columns first (each cluster gets the same mass) and then rows (each image sums to one).
    Each iteration exchanges one sum per column, of all chunks at once.

    The first is done on the logarithms: however low the temperature, no row underflows to zero. After it every entry
    is at most 1 and every row holds one of at least 1 / K, which no later iteration can lose. These only find the
    factor of each column and row (Cuturi 2013, algorithm 1), which scale the entries once, at the end: two reads of
    all entries per iteration, where normalising in place is two reads and two writes more.
    """
    columns = all_reduce_logsumexp([scores.logsumexp(dim=1) for scores in chunks], workers)
    matrices = [(scores - column[:, None]).softmax(dim=2) for scores, column in zip(chunks, columns, strict=True)]
    if iterations == 1:
        return matrices
    tiny = torch.finfo(torch.float32).tiny
    rows = [q.new_ones(q.shape[0], 1, q.shape[1]) for q in matrices]  # factors, [h, 1, rows]
    factors = rows  # of the columns, [h, 1, K]
    for _ in range(iterations - 1):
        masses = _column_masses(matrices, rows, workers)
        # Over their mean, as only ratios matter: otherwise the factors would grow with every iteration.
        factors = [mass.mean(2, keepdim=True) / mass.clamp_min(tiny) for mass in masses]
        rows = _row_factors(matrices, factors)
    return _scaled(matrices, factors, rows)


def sinkhorn_potentials(scores: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """What to subtract from scores [h, rows, K] of the whole batch for the logarithm of `sinkhorn`'s assignments.

    Of the columns, [h, 1, K], and of the rows, [h, rows, 1]. For compiled code, where reading the scores once more and
    exponentiating costs less than to write the assignments: no tensor of their shape is made.
    """
    tiny = torch.finfo(torch.float32).tiny
    columns = log_sum_exp(scores, 1)
    rows = log_sum_exp(scores - columns, 2)
    for _ in range(iterations - 1):
        mass = (scores - columns - rows).exp().sum(1, keepdim=True)
        columns = _held(columns + mass.clamp_min(tiny).log())
        rows = _held(rows + (scores - columns - rows).exp().sum(2, keepdim=True).log())
    return columns, rows


def log_sum_exp(scores: Tensor, dim: int) -> Tensor:
    """`scores.logsumexp(dim, keepdim=True)` of finite scores, spelt as torch.compile finds a softmax: in one pass."""
    peak = scores.amax(dim, keepdim=True)
    return _held(peak + (scores - peak).exp().sum(dim, keepdim=True).log())


def _held(small: Tensor) -> Tensor:
    """`small`, which compiled code is to write: it would compute it again at each entry of what it is subtracted from.

    That reads so many tensors that it would rather write the difference, which is a thousand times as large. What has
    strides of its own must be in memory.
    """
    return small.as_strided(small.shape, small.stride())


def unbalanced_sinkhorn(
    chunks: Sequence[Tensor],
    priors: Sequence[Tensor],
    workers: Collectives,
    *,
    iterations: int,
    strength: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Assignments drawn towards the masses of a prior, without having to reach them: for classes of unequal size.

    Unbalanced optimal transport (Chizat et al. 2018, algorithm 1; for clustering Zhang et al., ICLR 2024): a Kullback-
    Leibler penalty in place of the constraint on the columns gives them the factor (target / mass)^strength, where
    strength = rho / (rho + 1) in [0, 1] for a penalty rho. 1 is the constraint, 0 the plain softmax. `priors` are the
    targets, float32[h, K] > 0, rows summing to 1. Rows are normalised before the first iteration too, which the
    paper's Sinkhorn leaves out: without the constraint it matters what a row brings (ours).

    Returns the assignments, as `sinkhorn`, and the masses of the plain softmax of all workers' rows, float32[h, K],
    which an estimate of the prior is made of; they cost nothing more.
    """
    matrices = [scores.softmax(dim=2) for scores in chunks]
    rows = [q.new_ones(q.shape[0], 1, q.shape[1]) for q in matrices]
    factors, plain = rows, []
    for _ in range(iterations):
        masses = _column_masses(matrices, rows, workers)
        plain = plain or [mass.squeeze(1) for mass in masses]
        # Of shares of the mass: a factor common to all columns goes into the rows.
        shares = [mass / mass.sum(2, keepdim=True) for mass in masses]
        factors = [
            (prior[:, None] / share.clamp_min(LEAST_SHARE)) ** strength
            for prior, share in zip(priors, shares, strict=True)
        ]
        rows = _row_factors(matrices, factors)
    return _scaled(matrices, factors, rows), plain


def floored(prior: Tensor) -> Tensor:
    """Shares float32[..., K] raised to `PRIOR_FLOOR / K` where they are below, then scaled to sum to 1 (ours)."""
    raised = prior.clamp_min(PRIOR_FLOOR / prior.shape[-1])
    return raised / raised.sum(-1, keepdim=True)


def _column_masses(matrices: Sequence[Tensor], rows: Sequence[Tensor], workers: Collectives) -> list[Tensor]:
    return all_reduce([torch.bmm(row, q) for row, q in zip(rows, matrices, strict=True)], workers)


def _row_factors(matrices: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    """What makes each row sum to one, given the factors of the columns."""
    return [
        torch.bmm(q, factor.transpose(1, 2)).reciprocal_().transpose(1, 2)
        for q, factor in zip(matrices, factors, strict=True)
    ]


def _scaled(matrices: Sequence[Tensor], factors: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
    return [q.mul_(factor).mul_(row.transpose(1, 2)) for q, factor, row in zip(matrices, factors, rows, strict=True)]
