"""Losses and targets of the clustering heads (paper 3.1, eq. 1-3; TEMI, arXiv 2303.17896), batched over heads.

Shapes: h heads of a chunk, B anchors, K clusters. The views are the anchors x and one neighbour x' of each. Means are
over `pairs` of them, B by default: a worker that holds a part of a batch gives its share of the whole batch's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from icce_ray.core.collectives import Collectives, all_reduce, all_reduce_logsumexp

#: The least mass an estimated prior gives a cluster, in units of 1 / K: one that lost all could never win an image.
PRIOR_FLOOR = 0.1
#: Share of the mass below which a column counts as empty: its factor and what it multiplies stay within float32.
LEAST_SHARE = 1e-30


def ce_weight(step: int, total_steps: int, maximum: float) -> float:
    """Weight of the cross-entropy term, `maximum * (1 - cos(pi t / T)) / 2`: a cosine ramp from 0 (paper 3.1)."""
    return maximum * (1.0 - math.cos(math.pi * step / total_steps)) / 2.0


def pair_weight(teacher_x: Tensor, teacher_n: Tensor) -> Tensor:
    """`sum over heads and clusters of p_t(k|x) p_t(k|x')` of [h, B, K] tensors, float32[B].

    Divided by the number of all heads it is TEMI's w(x, x'): how much the teachers agree that the pair belongs
    together. It carries no gradient, and is a sum so that chunks of heads add up.
    """
    return torch.einsum("hbk,hbk->b", teacher_x, teacher_n)


def pmi(log_student: Tensor, teacher: Tensor, marginal: Tensor, beta: float) -> Tensor:
    """`log sum_k (p_s(k|x) p_t(k|x'))^beta / p~(k)`, float32[h, B] (TEMI eq. 4).

    `log_student` [h, B, K] are log-probabilities, `teacher` [h, B, K] probabilities, `marginal` [h, K]. In the
    log domain the gradient of p^beta, unbounded at 0, never appears.
    """
    tiny = torch.finfo(teacher.dtype).tiny
    constant = teacher.clamp_min(tiny).log_().mul_(beta).sub_(marginal.clamp_min(tiny).log()[:, None, :])
    return torch.logsumexp(torch.add(constant, log_student, alpha=beta), dim=-1)


def temi_loss(
    students: tuple[Tensor, Tensor],
    teachers: tuple[Tensor, Tensor],
    *,
    marginal: Tensor,
    weight: Tensor,
    beta: float,
    pairs: int | None = None,
) -> Tensor:
    """TEMI loss of each head, `mean over pairs of -1/2 w(x, x') (pmi(x, x') + pmi(x', x))`, float32[h].

    `students` are the log-probabilities of both views, `teachers` the probabilities, [h, B, K] each.
    """
    both = pmi(students[0], teachers[1], marginal, beta) + pmi(students[1], teachers[0], marginal, beta)
    return -0.5 * ((both * weight).sum(dim=1) / (pairs or len(weight)))


def cross_entropy_loss(
    students: tuple[Tensor, Tensor], teachers: tuple[Tensor, Tensor], *, pairs: int | None = None
) -> Tensor:
    """Cross-entropy of each view against the teacher's pseudo-label of the other, float32[h] (paper eq. 1-2)."""
    label_x, label_n = (teacher.argmax(-1, keepdim=True) for teacher in teachers)
    picked = students[0].gather(-1, label_n) + students[1].gather(-1, label_x)
    return -0.5 * (picked.sum(dim=(1, 2)) / (pairs or picked.shape[1]))


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
