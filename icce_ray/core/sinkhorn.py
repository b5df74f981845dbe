"""Sinkhorn-Knopp centring of the teacher (paper 3.1, "Bag of Tricks"; Caron et al. 2020; Ruan et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(scores: Tensor, *, iterations: int = 3) -> Tensor:
    """Assignment probabilities that use all clusters evenly.

    `scores` float32[heads, rows, K] are logits already divided by the teacher's temperature; the rows are the whole
    batch, all views. `Q = exp(scores)` is scaled `iterations` times, columns first (each cluster gets the same
    mass) and then rows (each image sums to one). Returns float32 of the same shape whose rows sum to 1. The
    maximum of each head is subtracted first: it cancels, and keeps the exponential in range.
    """
    q = (scores - scores.amax(dim=(1, 2), keepdim=True)).exp_()
    tiny = torch.finfo(q.dtype).tiny
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True).clamp_min_(tiny)
        q /= q.sum(dim=2, keepdim=True).clamp_min_(tiny)
    return q
