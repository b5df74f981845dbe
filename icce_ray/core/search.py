"""Exact search for adaptive neighbours, the same to the last bit over any sharding.

A fast product *over-selects* candidate pairs by a rigorous bound on its rounding error; then every candidate pair is
*re-scored* by a dot product whose order of summation depends on D only, never on the block it was computed in. What is
kept is decided on those scores alone (`core.neighbors.select`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from icce_ray.core.neighbors import Neighbors, check_limits, concatenate, merge, select

#: Elements of one block of similarities: 2**25 float32 are 128 MB, small against memory, large against overhead.
BLOCK_ELEMENTS = 2**25


#: A search that stands in for `candidate_pairs`: (queries, own=, threshold=, k_min=, k_max=) -> (crow, cols).
Proposer = Callable[..., tuple[Tensor, Tensor]]


def unit_rows(features: Tensor, block_rows: int = 65536) -> Tensor:
    """Rows of `features` [n, D] (any float type) scaled to length one, float32.

    The norm is taken in float64, so that equal rows stay equal and the result does not depend on the block; by blocks,
    so that no float64 copy of the whole set is made.
    Raises ValueError naming the first rows that are zero or not finite: they have no direction.
    """
    unit = torch.empty(features.shape, device=features.device)
    norms = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for start in range(0, len(features), block_rows):
        rows = slice(start, start + block_rows)
        wide = features[rows].double()
        norms[rows] = torch.linalg.vector_norm(wide, dim=1)
        unit[rows] = wide / norms[rows, None]
    bad = ~(norms.isfinite() & (norms > 0))
    if bad.any():
        rows = bad.nonzero().flatten()
        raise ValueError(
            f"{len(rows)} of {len(features)} feature rows are zero or not finite (first rows: "
            f"{rows[:5].tolist()}); a cosine similarity needs a direction: remove these rows"
        )
    return unit


def rounding_margin(dim: int) -> float:
    """Twice the largest rounding error of a float32 dot product of two unit vectors of `dim` entries.

    |fl(x.y) - x.y| <= dim * 2^-24 * sum |x_i y_i| for any order of summation (Higham, Accuracy and Stability,
    section 3.1), and the sum is at most 1 by Cauchy-Schwarz. Twice, as two such products are compared; two units more
    for the rounding of the unit vectors' lengths and of the threshold itself.
    """
    return 2.0 * (dim + 2) * 2.0**-24


def candidate_pairs(
    queries: Tensor, base: Tensor, *, own: Tensor | None, threshold: float, k_min: int, k_max: int
) -> tuple[Tensor, Tensor]:
    """Pairs (query, base row) that contain every pair `select` can keep, from one blocked product.

    `queries` float32[b, D] and `base` float32[n, D] have unit rows; `own` int64[b] is the base row that is the
    query itself (-1 where it is not among them), never a candidate. Returns (crow int64[b + 1], cols int64),
    ids ascending within a row.
    """
    margin = rounding_margin(base.shape[1])
    similarities = queries @ base.T
    if own is not None:
        rows = (own >= 0).nonzero().flatten()
        similarities[rows, own[rows]] = -torch.inf
    cut = torch.full((len(queries),), threshold - margin, device=base.device)
    many = ((similarities >= threshold - margin).sum(1) > k_max).nonzero().flatten()
    few = ((similarities >= threshold + margin).sum(1) < k_min).nonzero().flatten()
    if len(many):
        kth = torch.topk(similarities[many], k_max, sorted=False).values.amin(1)
        cut[many] = torch.maximum(cut[many], kth - 2 * margin)
    if len(few):
        kth = torch.topk(similarities[few], min(k_min, len(base)), sorted=False).values.amin(1)
        cut[few] = torch.minimum(cut[few], kth - 2 * margin)
    # Where fewer than k_min are there, the k_min-th is the query's own -inf: everything but itself is a candidate.
    chosen = similarities >= cut.clamp_min(-2.0)[:, None]
    crow = torch.zeros(len(queries) + 1, dtype=torch.int64, device=base.device)
    torch.cumsum(chosen.sum(1), 0, out=crow[1:])
    return crow, chosen.nonzero()[:, 1]


def rescore(queries: Tensor, base: Tensor, crow: Tensor, cols: Tensor) -> Tensor:
    """Cosine similarity of the pairs (crow, cols) of unit rows, float32[nnz], clamped to [-1, 1].

    Each pair is one dot product of its own, summed in an order that depends on D only: the same pair gets the
    same bits whatever the block, the shard or the search that proposed it.
    """
    with warnings.catch_warnings():  # torch calls its CSR layout beta, once per process
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        pattern = torch.sparse_csr_tensor(
            crow,
            cols,
            torch.zeros(len(cols), device=base.device),
            (len(queries), len(base)),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, queries, base.T, beta=0.0).values().clamp_(-1.0, 1.0)


def search_shard(
    queries: Tensor,
    base: Tensor,
    *,
    query_rows: Tensor,
    first_base: int,
    threshold: float,
    k_min: int,
    k_max: int,
    propose: Proposer | None = None,
) -> Neighbors:
    """Neighbours of some queries among one shard of the base, with ids counted over all shards.

    `queries` float32[b, D] are the rows `query_rows` int64[b] of the whole set, `base` float32[n, D] its rows
    first_base, first_base + 1, ... The result is what `merge` needs from this shard; alone it is exact for this shard.
    `propose` takes the place of the blocked product: another search over the whole of `base` that over-selects as much.
    """
    own = query_rows.to(base.device) - first_base
    own[(own < 0) | (own >= len(base))] = -1
    limits = {"threshold": threshold, "k_min": k_min, "k_max": k_max}
    if propose is not None:
        crow, cols = propose(queries, own=own, **limits)
        return select(crow, cols + first_base, rescore(queries, base, crow, cols), **limits)
    parts = []
    rows = max(1, BLOCK_ELEMENTS // max(1, len(queries)))
    for start in range(0, len(base), rows):
        block = base[start : start + rows]
        inside = (own >= start) & (own < start + len(block))
        block_own = torch.where(inside, own - start, -1)
        crow, cols = candidate_pairs(queries, block, own=block_own if inside.any() else None, **limits)
        scores = rescore(queries, block, crow, cols)
        parts.append(select(crow, cols + (start + first_base), scores, **limits))
        if sum(len(part.ids) for part in parts) > BLOCK_ELEMENTS // 2:
            parts = [merge(parts, **limits)]  # selection is associative: what is out now stays out
    return merge(parts, **limits)


def mine(features: Tensor, *, threshold: float, k_min: int, k_max: int, block_rows: int = 2048) -> Neighbors:
    """Adaptive neighbours of all rows of `features` [N, D] on one device. Raises ValueError on bad limits or rows.

    With N <= k_min every other image is a neighbour.
    """
    check_limits(threshold, k_min, k_max)
    if len(features) < 2:
        raise ValueError(f"{len(features)} image has no neighbours: at least 2 are needed")
    unit = unit_rows(features)
    return concatenate(
        [
            search_shard(
                unit[start : start + block_rows],
                unit,
                query_rows=torch.arange(start, min(start + block_rows, len(unit)), device=unit.device),
                first_base=0,
                threshold=threshold,
                k_min=k_min,
                k_max=k_max,
            )
            for start in range(0, len(unit), block_rows)
        ]
    )


def same_class(classes: Tensor, base_classes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (query, base row) of one true class, a `Proposer`'s for the upper bound of the paper's Table 4.

    `classes` int64[b] are the queries' classes, `base_classes` int64[n] the base's; `own` as in `candidate_pairs`.
    Returns (crow int64[b + 1], cols int64), ids ascending within a row. The memory is that of the pairs.
    """
    order = torch.argsort(base_classes, stable=True)
    ordered = base_classes[order]
    first = torch.searchsorted(ordered, classes)
    counts = torch.searchsorted(ordered, classes, right=True) - first
    row = torch.repeat_interleave(torch.arange(len(classes), device=own.device), counts)
    place = torch.arange(len(row), device=own.device) - (counts.cumsum(0) - counts)[row]
    cols = order[first[row] + place]
    others = cols != own[row]
    crow = torch.zeros(len(classes) + 1, dtype=torch.int64, device=own.device)
    torch.cumsum(torch.bincount(row[others], minlength=len(classes)), 0, out=crow[1:])
    return crow, cols[others]
