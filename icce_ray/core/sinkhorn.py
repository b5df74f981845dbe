"""Sinkhorn-Knopp centring of the teacher (paper 3.1, "Bag of Tricks"; Caron et al. 2020; Ruan et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(scores: Tensor, *, iterations: int = 3) -> Tensor:
    """Assignment probabilities that use all clusters evenly.

    `scores` float32[heads, rows, K] are logits already divided by the teacher's temperature; the rows are the whole
    batch, all views. `Q = exp(scores)` is scaled `iterations` >= 1 times, columns first (each cluster gets the same
    mass) and then rows (each image sums to one). Returns float32 of the same shape whose rows sum to 1.

    The first round is done on the logarithms: however low the temperature, no row underflows to nothing. After it
    every entry is at most 1 and every row holds one of at least 1 / K, which no later round can lose.
    """
    q = scores.log_softmax(dim=1).softmax(dim=2)
    tiny = torch.finfo(q.dtype).tiny
    for _ in range(iterations - 1):
        q /= q.sum(dim=1, keepdim=True).clamp_min_(tiny)
        q /= q.sum(dim=2, keepdim=True)
    return q
