"""Sinkhorn-Knopp centring of the teacher (paper 3.1, "Bag of Tricks"; Caron et al. 2020; Ruan et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from icce_ray.core.collectives import ALONE, Collectives, logsumexp_together, sum_together

#: The least mass an estimated prior gives a cluster, in units of 1 / K: one that lost all could never win an image.
PRIOR_FLOOR = 0.1

#: Of the mass, below which a column is taken for empty: its factor and what it multiplies stay within float32.
LEAST_SHARE = 1e-30


def floored(prior: Tensor) -> Tensor:
    """Shares float32[..., K] raised to `PRIOR_FLOOR / K` where they are below, then scaled to sum to 1 (ours)."""
    held = prior.clamp_min(PRIOR_FLOOR / prior.shape[-1])
    return held / held.sum(-1, keepdim=True)


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


def relaxed_sinkhorn_together(
    chunks: Sequence[Tensor],
    priors: Sequence[Tensor],
    workers: Collectives,
    *,
    iterations: int,
    strength: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Assignments that only lean towards the masses of a prior: for classes of unequal size.

    Unbalanced optimal transport (Chizat et al. 2018, algorithm 1; for clustering Zhang et al., ICLR 2024): a Kullback-
    Leibler penalty in place of the constraint on the columns gives them the factor (target / mass)^strength, where
    strength = rho / (rho + 1) in [0, 1] for a penalty rho. 1 is the constraint, 0 the plain softmax. `priors` are the
    targets, float32[heads, K] > 0, rows summing to 1. Rows are normalised before the first round too, which the paper's
    Sinkhorn leaves out: without the constraint it matters what a row brings (ours).

    Returns the assignments, as `sinkhorn_together`, and the masses of the plain softmax of all workers' rows,
    float32[heads, K], which an estimate of the prior is made of; they cost nothing more.
    """
    matrices = [scores.softmax(dim=2) for scores in chunks]
    rows = [q.new_ones(q.shape[0], 1, q.shape[1]) for q in matrices]
    factors, plain = rows, []
    for _ in range(iterations):
        masses = sum_together([torch.bmm(row, q) for row, q in zip(rows, matrices, strict=True)], workers, "sinkhorn")
        plain = plain or [mass.squeeze(1) for mass in masses]
        # Of shares of the mass: a factor common to all columns goes into the rows.
        shares = [mass / mass.sum(2, keepdim=True) for mass in masses]
        factors = [
            (prior[:, None] / share.clamp_min(LEAST_SHARE)) ** strength
            for prior, share in zip(priors, shares, strict=True)
        ]
        rows = [
            torch.bmm(q, factor.transpose(1, 2)).reciprocal_().transpose(1, 2)
            for q, factor in zip(matrices, factors, strict=True)
        ]
    scaled = zip(matrices, factors, rows, strict=True)
    return [q.mul_(factor).mul_(row.transpose(1, 2)) for q, factor, row in scaled], plain
