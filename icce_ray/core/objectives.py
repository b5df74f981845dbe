"""Losses of the clustering heads, batched over heads (paper 3.1, eq. 1-3; TEMI, arXiv 2303.17896, section 3).

Shapes: h heads of a chunk, B anchors, K clusters. The views are the anchors x and one neighbour x' of each. Means are
over `pairs` of them, B by default: a worker that holds a part of a batch gives its share of the whole batch's mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    log_student_x: Tensor,
    log_student_n: Tensor,
    teacher_x: Tensor,
    teacher_n: Tensor,
    *,
    marginal: Tensor,
    weight: Tensor,
    beta: float,
    pairs: int | None = None,
) -> Tensor:
    """TEMI loss of each head, `mean over pairs of -1/2 w(x, x') (pmi(x, x') + pmi(x', x))`, float32[h]."""
    both = pmi(log_student_x, teacher_n, marginal, beta) + pmi(log_student_n, teacher_x, marginal, beta)
    return -0.5 * ((both * weight).sum(dim=1) / (pairs or len(weight)))


def cross_entropy_loss(
    log_student_x: Tensor, log_student_n: Tensor, teacher_x: Tensor, teacher_n: Tensor, *, pairs: int | None = None
) -> Tensor:
    """Cross-entropy of each view against the teacher's pseudo-label of the other, float32[h] (paper eq. 1-2)."""
    label_n, label_x = teacher_n.argmax(-1, keepdim=True), teacher_x.argmax(-1, keepdim=True)
    picked = log_student_x.gather(-1, label_n) + log_student_n.gather(-1, label_x)
    return -0.5 * (picked.sum(dim=(1, 2)) / (pairs or picked.shape[1]))
