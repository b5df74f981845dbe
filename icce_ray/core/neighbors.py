"""Adaptive nearest neighbours: the lists and the rule (paper 3.1, "Adaptive Nearest Neighbors Selection").

The neighbours of image i are the images whose cosine similarity to it reaches `threshold`; fewer than `k_min`
of them are filled up to the `k_min` nearest, more than `k_max` are cut to the `k_max` nearest. Equal similarities
are ordered by id, so a neighbour list is a function of the features alone. `core.search` finds the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

#: Pairs that `narrow` looks at in one step: some 600 MB of numbers beside the lists, however many pairs they have.
_BLOCK_PAIRS = 2**25


@dataclass(frozen=True)
class Neighbors:
    """Ragged neighbour lists, each descending in similarity.

    The neighbours of row i are `ids[offsets[i]:offsets[i + 1]]` (int64, or int32 to save memory), with `similarities`
    (float32, cosine) beside them, empty where only the lists matter; `offsets` is int64[n + 1].
    """

    offsets: Tensor
    ids: Tensor
    similarities: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of neighbours of each row, int64[n]."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> Neighbors:
        """The same lists on another device."""
        return Neighbors(self.offsets.to(device), self.ids.to(device), self.similarities.to(device))


def default_k_max(n_images: int, n_clusters: int, k_min: int) -> int:
    """`ceil(N / K)`, at least `k_min`: the size of a balanced class, where the paper's Table 11 saturates."""
    return max(math.ceil(n_images / n_clusters), k_min)


def check_limits(threshold: float, k_min: int, k_max: int) -> None:
    """Raise ValueError unless -1 <= threshold <= 1 and 1 <= k_min <= k_max."""
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold = {threshold}: a cosine similarity lies in [-1, 1]; the paper uses 0.3")
    if k_min < 1:
        raise ValueError(f"k_min = {k_min}: must be at least 1, else an image may have no neighbour at all")
    if k_max < k_min:
        raise ValueError(f"k_max = {k_max} is below k_min = {k_min}; raise k_max or lower k_min")


def select(crow: Tensor, ids: Tensor, similarities: Tensor, *, threshold: float, k_min: int, k_max: int) -> Neighbors:
    """The rule of the paper on candidate pairs in any order within a row: threshold, then k_min, then k_max.

    `ids` are below 2^32. A pair is sorted as one integer, its similarity's bits before its id: one sort in registers
    instead of an indirect one, and ties go to the lower id.
    """
    counts = crow.diff()
    bits = (similarities + 0.0).view(torch.int32)  # so that there is one zero
    keys = ((~(bits ^ ((bits >> 31) & 0x7FFFFFFF))).long() << 32) | ids
    lengths, pieces = torch.zeros_like(counts), []
    for rows in _of_like_length(counts):
        ordered = _sorted_rows(keys, crow[rows], counts[rows])[:, :k_max]
        bits = ~(ordered >> 32).to(torch.int32)
        scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
        rank = torch.arange(ordered.shape[1], device=ids.device)
        keep = ((scores >= threshold) | (rank < k_min)) & (rank < counts[rows, None])
        offsets, places = entries(keep)
        lengths[rows] = offsets.diff()
        pieces.append((rows, offsets, ordered.reshape(-1)[places] & 0xFFFFFFFF, scores.reshape(-1)[places]))
    offsets = torch.zeros_like(crow)
    torch.cumsum(lengths, 0, out=offsets[1:])
    found, found_scores = ids.new_empty(int(offsets[-1])), similarities.new_empty(int(offsets[-1]))
    for rows, first, kept, scores in pieces:
        where = spread(offsets[rows], first.diff())
        found[where], found_scores[where] = kept, scores
    return Neighbors(offsets, found, found_scores)


def _of_like_length(counts: Tensor) -> list[Tensor]:
    """Rows in groups whose counts are within a factor of two, but for the short ones: little is padded."""
    longest = int(counts.amax()) if len(counts) else 0
    edges = [longest >> power for power in range(4)] + [0]
    groups = [((counts <= high) & (counts > low)).nonzero().flatten() for high, low in pairwise(edges)]
    return [rows for rows in groups if len(rows)]


def _sorted_rows(keys: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """The keys of some rows ascending, int64[rows, w], filled up with the largest integer.

    numpy sorts integers in vector instructions, several times as fast as torch.
    """
    width = int(counts.amax())
    padded = torch.full((len(counts) * width,), torch.iinfo(torch.int64).max, device=keys.device)
    first = torch.arange(len(counts), device=keys.device) * width
    padded[spread(first, counts)] = keys[spread(starts, counts)]
    padded = padded.view(len(counts), width)
    return padded.sort(dim=1).values if padded.is_cuda else torch.from_numpy(np.sort(padded.numpy(), axis=1))


def spread(starts: Tensor, counts: Tensor) -> Tensor:
    """start, start + 1, ..., of each start as many as its count, one after the other: int64[sum of counts]."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(starts - before, counts).add_(torch.arange(int(counts.sum()), device=counts.device))


def entries(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where bool[b, n] is true: where each row begins, int64[b + 1], and places in the flat tensor, ascending.

    Rows are counted by their places: sums of bool would take several times longer.
    """
    flat = chosen.reshape(-1)
    places = flat.nonzero().flatten() if flat.is_cuda else torch.from_numpy(np.flatnonzero(flat.numpy()))
    edges = torch.arange(len(chosen) + 1, device=chosen.device) * chosen.shape[1]
    return torch.searchsorted(places, edges), places


def merge(parts: Sequence[Neighbors], *, threshold: float, k_min: int, k_max: int) -> Neighbors:
    """Neighbours of the same queries over several shards, as one index would give them."""
    if len(parts) == 1:
        return parts[0]
    pairs = joined(parts)
    return select(pairs.offsets, pairs.ids, pairs.similarities, threshold=threshold, k_min=k_min, k_max=k_max)


def joined(parts: Sequence[Neighbors]) -> Neighbors:
    """All pairs of the same queries out of several parts, a row's those of the parts in turn."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.stack([part.counts for part in parts])  # [parts, rows]
    crow = torch.zeros(counts.shape[1] + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts.sum(0), 0, out=crow[1:])
    ids = torch.empty(int(crow[-1]), dtype=torch.int64, device=counts.device)
    scores = torch.empty(len(ids), device=counts.device)
    starts = crow[:-1] + counts.cumsum(0) - counts  # where a part's list begins within a row
    for part, start in zip(parts, starts, strict=True):
        where = spread(start, part.counts)
        ids[where], scores[where] = part.ids, part.similarities
    return Neighbors(crow, ids, scores)


def replaced(lists: Neighbors, rows: Tensor, others: Neighbors) -> Neighbors:
    """The lists with those of some rows taken out of `others`, whose lists are of these rows, ascending."""
    stays = torch.ones(len(lists.counts), dtype=torch.bool, device=rows.device)
    stays[rows] = False
    kept = torch.repeat_interleave(stays, lists.counts)
    parts = []
    for counts, ids, scores in (
        (lists.counts * stays, lists.ids[kept], lists.similarities[kept]),
        (torch.zeros_like(lists.counts).index_copy_(0, rows, others.counts), others.ids, others.similarities),
    ):
        offsets = torch.zeros_like(lists.offsets)
        torch.cumsum(counts, 0, out=offsets[1:])
        parts.append(Neighbors(offsets, ids, scores))
    return joined(parts)


def concatenate(blocks: list[Neighbors]) -> Neighbors:
    """The lists of consecutive blocks of queries as one."""
    counts = torch.cat([block.counts for block in blocks])
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return Neighbors(
        offsets,
        torch.cat([block.ids for block in blocks]),
        torch.cat([block.similarities for block in blocks]),
    )


def narrow(lists: Neighbors, *, threshold: float, k_min: int, k_max: int) -> Neighbors:
    """Lists mined with a threshold as low, a k_min and a k_max as large, or more so, cut to these limits.

    The result is what mining with these limits gives, so that one search serves every threshold above its own. A list
    descends, so what is kept of it is its beginning, and nothing is sorted or padded; ids keep their type.

    Raises ValueError for bad limits, and for lists without similarities.
    """
    check_limits(threshold, k_min, k_max)
    if len(lists.similarities) != len(lists.ids):
        raise ValueError(
            f"{len(lists.ids)} neighbours with {len(lists.similarities)} similarities: only lists that kept their "
            "similarities can be cut to another threshold; load them with similarities"
        )
    offsets = torch.zeros_like(lists.offsets)
    lengths = offsets[1:]
    for rows, pairs in row_blocks(lists.offsets):
        reached = torch.zeros(pairs.stop - pairs.start + 1, dtype=torch.int64, device=offsets.device)
        torch.cumsum(lists.similarities[pairs] >= threshold, 0, out=reached[1:])
        edges = lists.offsets[rows.start : rows.stop + 1] - pairs.start
        counts = edges.diff()
        lengths[rows] = torch.maximum(reached[edges].diff(), counts.clamp_max(k_min)).clamp_max(k_max)
    torch.cumsum(lengths.clone(), 0, out=lengths)
    ids, similarities = (kept.new_empty(int(offsets[-1])) for kept in (lists.ids, lists.similarities))
    for rows, _ in row_blocks(lists.offsets):
        first = offsets[rows.start : rows.stop + 1]
        counts = first.diff()
        moved = torch.repeat_interleave(lists.offsets[rows] - first[:-1], counts)
        source = moved + torch.arange(int(first[0]), int(first[-1]), device=offsets.device)
        kept = slice(int(first[0]), int(first[-1]))
        ids[kept], similarities[kept] = lists.ids[source], lists.similarities[source]
    return Neighbors(offsets, ids, similarities)


def found_among(found: Neighbors, exact: Neighbors) -> tuple[int, int]:
    """How many entries of the lists `exact` are in the lists `found` of the same rows, and how many there are.

    The first over the second is the recall of the search that gave `found`.
    """
    rows = torch.arange(len(exact.counts), device=exact.ids.device)
    width = 1 + max((int(lists.ids.max()) for lists in (found, exact) if len(lists.ids)), default=0)
    mine, theirs = (torch.repeat_interleave(rows, lists.counts) * width + lists.ids for lists in (found, exact))
    return int(torch.isin(theirs, mine).sum()), len(theirs)


def row_blocks(offsets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Consecutive rows and their pairs, a bounded number of pairs a time but at least one row."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        start = int(offsets[first])
        last = int(torch.searchsorted(offsets, start + _BLOCK_PAIRS, right=True)) - 1
        last = min(max(last, first + 1), n_rows)
        yield slice(first, last), slice(start, int(offsets[last]))
        first = last
