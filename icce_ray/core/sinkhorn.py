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
    every entry is at most 1 and every row holds one of at least 1 / K, which no later round can lose. Later rounds
    only find the factor of each column and row (Cuturi 2013, algorithm 1), which scale the entries once, at the end:
    two reads of all entries a round, where normalising in place is two reads and two writes more.
    """
    return sinkhorn_together([scores], ALONE, iterations=iterations)[0]


def sinkhorn_together(chunks: Sequence[Tensor], workers: Collectives, *, iterations: int) -> list[Tensor]:
    """`sinkhorn` of several chunks of heads whose rows are spread over workers; a worker may have none.

    Rows are a worker's own, columns span all: each round exchanges one sum a column, of all chunks at once.
    """
    columns = logsumexp_together([scores.logsumexp(dim=1) for scores in chunks], workers, "sinkhorn")
    matrices = [(scores - column[:, None]).softmax(dim=2) for scores, column in zip(chunks, columns, strict=True)]
    if iterations == 1:
        return matrices
    tiny = torch.finfo(torch.float32).tiny
    rows = [q.new_ones(q.shape[0], 1, q.shape[1]) for q in matrices]  # factors, [h, 1, rows]
    factors = rows  # of the columns, [h, 1, K]
    for _ in range(iterations - 1):
        masses = sum_together([torch.bmm(row, q) for row, q in zip(rows, matrices, strict=True)], workers, "sinkhorn")
        # Over their mean, as only ratios matter: otherwise the factors would grow with every round.
        factors = [mass.mean(2, keepdim=True) / mass.clamp_min(tiny) for mass in masses]
        rows = [
            torch.bmm(q, factor.transpose(1, 2)).reciprocal_().transpose(1, 2)
            for q, factor in zip(matrices, factors, strict=True)
        ]
    return [q.mul_(factor).mul_(row.transpose(1, 2)) for q, factor, row in zip(matrices, factors, rows, strict=True)]
