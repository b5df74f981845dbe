"""Exact search for adaptive neighbours, the same to the last bit over any sharding.

A fast product *over-selects* candidate pairs by a rigorous bound on its rounding error (`core.products`); then every
candidate pair is *re-scored* by a dot product whose order of summation depends on D only, never on the block it was
computed in. What is kept is decided on those scores alone (`core.neighbors.select`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from icce_ray.core.neighbors import Neighbors, check_limits, concatenate, entries, joined, replaced, select
from icce_ray.core.products import CoarseRows, Similarities

#: Elements of one block of similarities. On a CPU they, and the rows they are of, stay in its caches; on a GPU a block
#: is large against what starting its kernels takes.
BLOCK_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}
#: Ids are sorted in half of a 64-bit integer.
MAX_ROWS = 2**32

#: A search that stands in for the blocked product: (queries, own=, threshold=, k_min=, k_max=) -> (crow, cols).
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
    coarse: CoarseRows | None = None,
    propose: Proposer | None = None,
) -> Neighbors:
    """Neighbours of some queries among one shard of the base, with ids counted over all shards.

    `queries` float32[b, D] are the rows `query_rows` int64[b] of the whole set, `base` float32[n, D] its rows
    first_base, first_base + 1, ... The result is what `merge` needs from this shard; alone it is exact for this shard.
    `coarse` are the rows of the base for the product, to make them once. `propose` takes the place of the product:
    another search over the whole of `base` that over-selects as much.

    Raises ValueError beyond 2^32 rows.
    """
    if first_base + len(base) > MAX_ROWS:
        raise ValueError(f"row {first_base + len(base):,} is beyond {MAX_ROWS:,}, the most that are searched; sample")
    own = query_rows.to(base.device) - first_base
    own[(own < 0) | (own >= len(base))] = -1
    limits = {"threshold": threshold, "k_min": k_min, "k_max": k_max}
    if propose is not None:
        crow, cols = propose(queries, own=own, **limits)
        return select(crow, cols + first_base, rescore(queries, base, crow, cols), **limits)
    coarse = coarse or CoarseRows.of(base)
    if k_min == k_max:
        found = _Search(queries, base, own, coarse, threshold=-1.0, k_max=k_min).run()
    else:
        found = _Search(queries, base, own, coarse, threshold=threshold, k_max=k_max).run()
        short = (found.counts < k_min).nonzero().flatten()
        if len(short):
            nearest = _Search(queries[short], base, own[short], coarse, threshold=-1.0, k_max=k_min).run()
            found = replaced(found, short, nearest)
    return Neighbors(found.offsets, found.ids + first_base, found.similarities)


class _Search:
    """The k_max nearest of those that reach the threshold, for a block of queries: a block of the base at a time.

    `cut` is what a pair's score must reach for its row, float32[b]: the threshold, higher where the list is full. It is
    always at most what the row's final list ends with. Ids are counted within the shard.
    """

    def __init__(
        self, queries: Tensor, base: Tensor, own: Tensor, coarse: CoarseRows, *, threshold: float, k_max: int
    ) -> None:
        self.queries, self.base, self.own, self.coarse = queries, base, own, coarse
        self.limits = {"threshold": threshold, "k_min": 0, "k_max": k_max}
        self.k_max = k_max
        self.coarse_queries = CoarseRows.of(queries, coarse.rows.dtype)
        self.margin = coarse.margin(self.coarse_queries)
        self.cut = torch.full((len(queries),), threshold, device=base.device)
        self.found: list[Neighbors] = []

    def run(self) -> Neighbors:
        """The lists of all queries."""
        step = max(1, BLOCK_ELEMENTS[self.base.device.type] // max(1, len(self.queries)))
        memory = self.coarse.rows.new_empty(len(self.queries) * min(step, len(self.base)))
        enough = 2 * self.k_max * len(self.queries)
        for start in range(0, len(self.base), step):
            block = slice(start, min(start + step, len(self.base)))
            crow, cols = self._candidates(block, memory)
            scores = rescore(self.queries, self.base[block], crow, cols)
            self.found.append(Neighbors(crow, cols + start, scores))
            if sum(len(part.ids) for part in self.found) > enough:
                self._settle()
        return self._selected()

    def _candidates(self, block: slice, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (query, row of the block) that contain every pair the lists can keep, as (crow int64[b + 1], cols)."""
        similarities = self.coarse.similarities(self.coarse_queries, block, memory)
        inside = ((self.own >= block.start) & (self.own < block.stop)).nonzero().flatten()
        similarities.leave_out(inside, self.own[inside] - block.start)
        width = block.stop - block.start
        rows = torch.arange(len(self.queries), device=self.cut.device)
        if self.limits["threshold"] <= -1.0 and block.start == 0:
            self._raise(similarities, rows, width)  # everything reaches it
        crow, places = entries(similarities.reach(self.cut - self.margin))
        many = (crow.diff() > 2 * self.k_max).nonzero().flatten()
        if len(many):
            self._raise(similarities, many, width)
            crow, places = entries(similarities.reach(self.cut - self.margin))
        return crow, places - torch.repeat_interleave(rows * width, crow.diff())

    def _raise(self, similarities: Similarities, rows: Tensor, width: int) -> None:
        """A list ends no lower than its k_max-th in this block alone."""
        if width >= self.k_max:
            kth = similarities.largest(rows, self.k_max) - self.margin
            # Below every score, above what is left out.
            self.cut[rows] = torch.maximum(self.cut[rows], kth).clamp_min_(-2.0)

    def _selected(self) -> Neighbors:
        pairs = joined(self.found)
        return select(pairs.offsets, pairs.ids, pairs.similarities, **self.limits)

    def _settle(self) -> None:
        """Keep what the rule keeps so far: what is out now stays out. Full lists raise the cut to their last score."""
        kept = self._selected()
        self.found = [kept]
        full = (kept.counts == self.k_max).nonzero().flatten()
        self.cut[full] = torch.maximum(self.cut[full], kept.similarities[kept.offsets[full + 1] - 1])


def mine(features: Tensor, *, threshold: float, k_min: int, k_max: int, block_rows: int = 2048) -> Neighbors:
    """Adaptive neighbours of all rows of `features` [N, D] on one device. Raises ValueError on bad limits or rows.

    With N <= k_min every other image is a neighbour.
    """
    check_limits(threshold, k_min, k_max)
    if len(features) < 2:
        raise ValueError(f"{len(features)} image has no neighbours: at least 2 are needed")
    unit = unit_rows(features)
    coarse = CoarseRows.of(unit)
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
                coarse=coarse,
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
