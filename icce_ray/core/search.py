"""Exact search for adaptive neighbours, the same to the last bit over any sharding.

A fast product *over-selects* candidate pairs by a rigorous bound on its rounding error (`core.products`); then every
candidate pair is *re-scored* by a dot product that has the same bits whatever block it was computed in (`rescore`).
What is kept is decided on those scores alone (`core.neighbors.select`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from icce_ray.core.neighbors import Limits, Neighbors, concatenate, merge, offsets_of, ranges, select
from icce_ray.core.products import CoarseRows, Similarities

#: Elements of one block of similarities. On a CPU they, and the rows they are of, stay in its caches; on a GPU a block
#: is large against what starting its kernels takes.
BLOCK_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}
#: Ids are sorted in half of a 64-bit integer.
MAX_ROWS = 2**32
_LOWEST = -2.0  # below every score, above what is left out
#: Entries of unit rows are multiples of 1 / _GRID.
_GRID = 2.0**26
#: Values of the base that are scored at a time where that is in float64: 1 GB.
_SCORED_ELEMENTS = 2**27
#: Bytes for each value of the base, by engine: float32 to score, then half precision for the product, or FAISS's own
#: copy in float32; of inverted lists both, as their recall is measured against the product.
_VALUE_BYTES = {"torch": 4 + 2, "faiss": 4 + 4, "ivf": 4 + 4 + 2, "ground_truth": 4}
#: Share of a device's memory that is planned with: the rest is the driver's, the allocator's gaps and FAISS's own.
USABLE_MEMORY = 0.9

#: A search in place of the blocked product: (queries, own, limits) -> (crow, cols), as `same_class` returns them.
Proposer = Callable[[Tensor, Tensor, Limits], tuple[Tensor, Tensor]]


def base_bytes(n: int, dim: int, search: str) -> float:
    """Bytes on a device of `n` rows that are searched by `torch`, `faiss`, `ivf` or `ground_truth`, at most."""
    return float(_VALUE_BYTES[search]) * n * dim


def work_bytes(dim: int, *, rows: int, k_max: int, device: str) -> float:
    """Bytes on a device that a search of blocks of `rows` queries needs beside the base, about."""
    wide = 8.0 * _SCORED_ELEMENTS if device == "cuda" else 0.0
    return wide + 8.0 * BLOCK_ELEMENTS[device] + 4.0 * rows * (dim + 8 * k_max)


def score_bytes(n: int, dim: int, *, pairs: float, rows: int, device: str) -> float:
    """Bytes that scoring so many pairs reads and writes, of all rows by blocks of `rows`."""
    if device != "cuda":
        return 8.0 * dim * pairs
    return 16.0 * dim * pairs + (4.0 + 8.0) * n * dim * math.ceil(n / rows)  # each block of queries makes the base wide


def parts_needed(base: float, work: float, memory: float) -> float:
    """Into how many parts a base is cut so that each fits a device beside the work; infinity where none does."""
    room = USABLE_MEMORY * memory - work
    return max(1, math.ceil(base / room)) if room > 0 else math.inf


def unit_rows(features: Tensor, block_rows: int = 65536) -> Tensor:
    """Rows of `features` [n, D] (any float type) scaled to length one, float32 in multiples of 2^-26.

    The norm is taken in float64, so that equal rows stay equal and the result does not depend on the block; by blocks,
    so that no float64 copy of the whole set is made. The grid of 2^-26, which float32 is as coarse as from 1/4 on, is
    what `rescore` counts on.
    Raises ValueError naming the first rows that are zero or not finite: they have no direction.
    """
    unit = torch.empty(features.shape, device=features.device)
    norms = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for start in range(0, len(features), block_rows):
        rows = slice(start, start + block_rows)
        wide = features[rows].double()
        norms[rows] = torch.linalg.vector_norm(wide, dim=1)
        unit[rows] = wide / norms[rows, None]
        unit[rows] = (unit[rows] * _GRID).round_() / _GRID
    bad = ~(norms.isfinite() & (norms > 0))
    if bad.any():
        rows = bad.nonzero().flatten()
        raise ValueError(
            f"{len(rows)} of {len(features)} feature rows are zero or not finite (first rows: "
            f"{rows[:5].tolist()}); a cosine similarity needs a direction: remove these rows"
        )
    return unit


def score_dtype(device: torch.device) -> torch.dtype:
    """The type that scores are summed in on this device: see `rescore`."""
    return torch.float64 if device.type == "cuda" else torch.float32


def rescore(queries: Tensor, base: Tensor, crow: Tensor, cols: Tensor) -> Tensor:
    """Cosine similarity of the pairs (crow, cols) of rows as `unit_rows` gives them, float32[nnz], in [-1, 1].

    The same pair gets the same bits whatever the block, the shard or the search that proposed it. On a CPU torch sums
    each pair by itself, in an order that depends on D only. cuSPARSE promises no order, so on CUDA there is none: sums
    are in float64, where they are exact. Products of two multiples of 2^-26 are multiples of 2^-52, by Cauchy-Schwarz
    every partial sum of them is below 2, and a score is rounded once, at the end.
    """
    dtype = score_dtype(base.device)
    wide, step = queries.to(dtype), max(1, _SCORED_ELEMENTS // max(1, base.shape[1]))
    if base.dtype == dtype or len(base) <= step:
        return _dots(wide, base.to(dtype), crow, cols)
    scores = torch.empty(len(cols), device=base.device)
    row = torch.repeat_interleave(torch.arange(len(queries), device=base.device), crow.diff())
    for start in range(0, len(base), step):
        inside = ((cols >= start) & (cols < start + step)).nonzero().flatten()
        edges = offsets_of(torch.bincount(row[inside], minlength=len(queries)))
        scores[inside] = _dots(wide, base[start : start + step].to(dtype), edges, cols[inside] - start)
    return scores


def _dots(queries: Tensor, base: Tensor, crow: Tensor, cols: Tensor) -> Tensor:
    """Products of the pairs (crow, cols) of rows, rounded to float32."""
    zeros, shape = base.new_zeros(len(cols)), (len(queries), len(base))
    with warnings.catch_warnings():  # torch calls its CSR layout beta, once per process
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        pattern = torch.sparse_csr_tensor(crow, cols, zeros, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, queries, base.T, beta=0.0).values().float().clamp_(-1.0, 1.0)


def search_shard(
    queries: Tensor,
    base: Tensor,
    limits: Limits,
    *,
    query_rows: Tensor,
    first_base: int,
    coarse: CoarseRows | None = None,
    propose: Proposer | None = None,
) -> Neighbors:
    """Neighbours of some queries among one shard of the base, with ids counted over all shards.

    `queries` float32[b, D] are the rows `query_rows` int64[b] of the whole set, `base` float32[n, D] its rows
    first_base, first_base + 1, ... The result is what `select` needs from this shard; alone it is exact for this shard.
    `coarse` are the rows of the base for the product, to make them once. `propose` takes the place of the product:
    another search over the whole of `base` that over-selects as much.

    Raises ValueError beyond 2^32 rows.
    """
    if first_base + len(base) > MAX_ROWS:
        raise ValueError(f"row {first_base + len(base):,} is beyond {MAX_ROWS:,}, the most that are searched; sample")
    own = query_rows.to(base.device) - first_base
    own[(own < 0) | (own >= len(base))] = -1
    if propose is None:
        lists = _Search(queries, base, own, coarse or CoarseRows.of(base), limits).run()
    else:
        crow, cols = propose(queries, own, limits)
        lists = select([Neighbors(crow, cols, rescore(queries, base, crow, cols))], limits)
    return Neighbors(lists.offsets, lists.ids + first_base, lists.similarities)


class _Search:
    """The lists of a block of queries among the base, a block of it at a time; ids are counted within the base.

    `cut` is what the score of a pair must reach for its row, float32[b]; at most what the row's final list ends with.
    """

    def __init__(self, queries: Tensor, base: Tensor, own: Tensor, coarse: CoarseRows, limits: Limits) -> None:
        self.queries, self.base, self.own, self.coarse, self.limits = queries, base, own, coarse, limits
        self.coarse_queries = CoarseRows.of(queries, coarse.rows.dtype)
        self.margin = coarse.margin(self.coarse_queries)
        self.cut = torch.full((len(queries),), _LOWEST, device=base.device)
        nothing = own.new_empty(0)
        self.parts = [Neighbors(own.new_zeros(len(own) + 1), nothing, nothing.float())]

    def run(self) -> Neighbors:
        """The lists of all queries."""
        step = max(1, BLOCK_ELEMENTS[self.base.device.type] // max(1, len(self.queries)))
        memory = self.coarse.rows.new_empty(len(self.queries) * min(step, len(self.base)))
        enough = 2 * self.limits.k_max * len(self.queries)
        for start in range(0, len(self.base), step):
            block = slice(start, min(start + step, len(self.base)))
            similarities = self.coarse.similarities(self.coarse_queries, block, memory)
            inside = ((self.own >= block.start) & (self.own < block.stop)).nonzero().flatten()
            similarities.leave_out(inside, self.own[inside] - block.start)
            self.parts += self._first(similarities, block) if start == 0 else [self._pairs(similarities, block)]
            if sum(len(part.ids) for part in self.parts) > enough:
                self._prune()
        return merge(self.parts, self.limits)

    def _first(self, similarities: Similarities, block: slice) -> list[Neighbors]:
        """Pairs of the first block, which gives every row its cut.

        That is the threshold; where fewer than k_min reach it, the k_min-th best of this block, which is lower.
        """
        limits, rows = self.limits, torch.arange(len(self.cut), device=self.cut.device)
        if limits.threshold <= -1.0 or limits.k_min == limits.k_max:  # the threshold decides nothing
            self.cut = self._ranked(similarities, rows, limits.k_max)
            return [self._pairs(similarities, block)]
        self.cut.fill_(limits.threshold)
        pairs = self._pairs(similarities, block)
        enough = offsets_of(pairs.similarities >= limits.threshold)[pairs.offsets].diff() >= limits.k_min
        short = (~enough).nonzero().flatten()
        if not len(short):
            return [pairs]
        self.cut[short] = self._ranked(similarities, short, limits.k_min).clamp_max(limits.threshold)
        more, kept = self._pairs(similarities, block, short), torch.repeat_interleave(enough, pairs.counts)
        counts = torch.zeros_like(pairs.counts).index_copy_(0, short, more.counts)
        return [
            Neighbors(offsets_of(pairs.counts * enough), pairs.ids[kept], pairs.similarities[kept]),
            Neighbors(offsets_of(counts), more.ids, more.similarities),
        ]

    def _pairs(self, similarities: Similarities, block: slice, rows: Tensor | None = None) -> Neighbors:
        """Pairs of some queries or all with a block, scored, in any order: all that the lists can keep, and more."""
        rows = torch.arange(len(self.queries), device=self.cut.device) if rows is None else rows
        crow, places = _entries(similarities.reach(rows, self.cut[rows] - self.margin))
        many = rows[crow.diff() > 2 * self.limits.k_max]
        if len(many):  # a list ends no lower than its k_max-th in this block alone
            self.cut[many] = torch.maximum(self.cut[many], self._ranked(similarities, many, self.limits.k_max))
            crow, places = _entries(similarities.reach(rows, self.cut[rows] - self.margin))
        begin = torch.arange(len(rows), device=rows.device) * (block.stop - block.start)
        cols = places - torch.repeat_interleave(begin, crow.diff())
        return Neighbors(crow, cols + block.start, rescore(self.queries[rows], self.base[block], crow, cols))

    def _ranked(self, similarities: Similarities, rows: Tensor, k: int) -> Tensor:
        """At most what the k-th best score of some rows in this block is."""
        if k > similarities.values.shape[1] or not len(rows):
            return self.cut.new_full((len(rows),), _LOWEST)
        return (similarities.largest(rows, k) - self.margin).clamp_min(_LOWEST)

    def _prune(self) -> None:
        """Apply the limits to what is there so far: what is out now stays out, and the cut rises to what is in."""
        lists = select(self.parts, self.limits)
        self.parts = [lists]
        counts = lists.counts
        rows = (counts >= self.limits.k_min).nonzero().flatten()
        last = lists.similarities[lists.offsets[rows + 1] - 1]
        reached = torch.where(counts[rows] == self.limits.k_max, last, last.clamp_max(self.limits.threshold))
        self.cut[rows] = torch.maximum(self.cut[rows], reached)


def _entries(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where bool[b, n] is true: where each row begins, int64[b + 1], and places in the flat tensor, ascending.

    Rows are counted by their places: sums of bool would take several times longer.
    """
    flat = chosen.reshape(-1)
    places = flat.nonzero().flatten() if flat.is_cuda else torch.from_numpy(np.flatnonzero(flat.numpy()))
    edges = torch.arange(len(chosen) + 1, device=chosen.device) * chosen.shape[1]
    return torch.searchsorted(places, edges), places


def mine(features: Tensor, limits: Limits, *, block_rows: int = 2048) -> Neighbors:
    """Adaptive neighbours of all rows of `features` [N, D] on one device. Raises ValueError on bad rows.

    With N <= k_min every other image is a neighbour.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} image has no neighbours: at least 2 are needed")
    unit = unit_rows(features)
    coarse, blocks = CoarseRows.of(unit), torch.arange(len(unit), device=unit.device).split(block_rows)
    return concatenate(
        [search_shard(unit[rows], unit, limits, query_rows=rows, first_base=0, coarse=coarse) for rows in blocks]
    )


def same_class(classes: Tensor, base_classes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (query, base row) of one true class, a `Proposer`'s for the upper bound of the paper's Table 4.

    `classes` int64[b] are the queries' classes, `base_classes` int64[n] the base's, `own` int64[b] the base row that
    is the query itself, -1 where there is none; it is no candidate.
    Returns (crow int64[b + 1], cols int64), ids ascending within a row. The memory is that of the pairs.
    """
    order = torch.argsort(base_classes, stable=True)
    ordered = base_classes[order]
    first = torch.searchsorted(ordered, classes)
    counts = torch.searchsorted(ordered, classes, right=True) - first
    row = torch.repeat_interleave(torch.arange(len(classes), device=own.device), counts)
    cols = order[ranges(first, counts)]
    others = cols != own[row]
    return offsets_of(torch.bincount(row[others], minlength=len(classes))), cols[others]
