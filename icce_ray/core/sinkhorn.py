"""Sinkhorn-Knopp centring of the teacher (paper 3.1, "Bag of Tricks"; Caron et al. 2020; Ruan et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from icce_ray.core.collectives import ALONE, Collectives, logsumexp_together, sum_together


def sinkhorn(scores: Tensor, *, iterations: int = 3) -> Tensor:
    """Assignment probabilities that use all clusters evenly.

    `scores` float32[heads, rows, K] are logits already divided by the teacher's temperature; the rows are the whole
    batch, all views. `Q = exp(scores)` is scaled `iterations` >= 1 times, columns first (each cluster gets the same
    mass) and then rows (each image sums to one). Returns float32 of the same shape whose rows sum to 1.

    The first round is done on the logarithms: however low the temperature, no row underflows to nothing. After it
    every entry is at most 1 and every row holds one of at least 1 / K, which no later round can lose.
    """
    return sinkhorn_together([scores], ALONE, iterations=iterations)[0]


def sinkhorn_together(chunks: Sequence[Tensor], workers: Collectives, *, iterations: int) -> list[Tensor]:
    """`sinkhorn` of several chunks of heads whose rows are spread over workers; a worker may have none.

    Rows are a worker's own, columns span all: each round exchanges one sum a column, of all chunks at once.
    """
    if workers.size == 1:
        first = [scores.log_softmax(dim=1) for scores in chunks]
    else:
        columns = logsumexp_together([scores.logsumexp(dim=1) for scores in chunks], workers, "sinkhorn")
        first = [scores - column[:, None] for scores, column in zip(chunks, columns, strict=True)]
    matrices = [q.softmax(dim=2) for q in first]
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(iterations - 1):
        masses = sum_together([q.sum(dim=1) for q in matrices], workers, "sinkhorn")
        for q, mass in zip(matrices, masses, strict=True):
            q.div_(mass[:, None].clamp_min_(tiny))
            q.div_(q.sum(dim=2, keepdim=True))
    return matrices
