"""Adaptive nearest neighbours: the lists and the rule (paper 3.1, "Adaptive Nearest Neighbors Selection").

The neighbours of image i are the images whose cosine similarity to it reaches `threshold`; fewer than `k_min`
of them are filled up to the `k_min` nearest, more than `k_max` are cut to the `k_max` nearest. Equal similarities
are ordered by id, so a neighbour list is a function of the features alone. `core.search` finds the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Pairs that `apply_limits` looks at in one step: some 600 MB of numbers, however many pairs the lists have.
_BLOCK_PAIRS = 2**25
_LARGEST_KEY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Limits:
    """Which of the nearest are neighbours. Raises ValueError unless -1 <= threshold <= 1 and 1 <= k_min <= k_max."""

    threshold: float
    """Cosine similarity from which an image is a neighbour."""
    k_min: int
    """At least so many neighbours, however far."""
    k_max: int
    """At most so many, the nearest."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold = {self.threshold}: a cosine similarity lies in [-1, 1]; the paper uses 0.3")
        if self.k_min < 1:
            raise ValueError(f"k_min = {self.k_min}: must be at least 1, else an image may have no neighbour at all")
        if self.k_max < self.k_min:
            raise ValueError(f"k_max = {self.k_max} is below k_min = {self.k_min}; raise k_max or lower k_min")

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> Limits:
        """Out of values that hold them by name."""
        return cls(summary["threshold"], summary["k_min"], summary["k_max"])

    def covers(self, other: Limits) -> bool:
        """Whether lists mined with these limits hold those of `other`."""
        return self.threshold <= other.threshold and self.k_min >= other.k_min and self.k_max >= other.k_max

    def lengths(self, reached: Tensor, counts: Tensor) -> Tensor:
        """How many are kept of rows of `counts` images, descending, of which `reached` reach the threshold."""
        return torch.maximum(reached, counts.clamp_max(self.k_min)).clamp_max(self.k_max)

    def lowest_kept(self, scores: Tensor) -> Tensor:
        """The score of the last that is kept, or the threshold, of rows of scores [n, k], descending: [n].

        It changes by no more than the scores do. -infinity where the scores are fewer than k_min.
        """

        def ranked(k: int) -> Tensor:
            return scores[:, k - 1] if k <= scores.shape[1] else scores.new_full((len(scores),), -torch.inf)

        return torch.maximum(ranked(self.k_min).clamp_max(self.threshold), ranked(self.k_max))


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


def apply_limits(lists: Neighbors, limits: Limits) -> Neighbors:
    """Lists mined with a threshold as low, a k_min and a k_max as large, or more so, cut to these limits.

    The result is what mining with these limits gives, so that one search serves every threshold above its own. A list
    descends, so what is kept of it is its beginning, and nothing is sorted or padded; ids keep their type.

    Raises ValueError for lists without similarities.
    """
    if len(lists.similarities) != len(lists.ids):
        raise ValueError(
            f"{len(lists.ids)} neighbours with {len(lists.similarities)} similarities: only lists that kept their "
            "similarities can be cut to another threshold; load them with similarities"
        )
    blocks = []
    for rows, pairs in row_blocks(lists.offsets):
        edges = lists.offsets[rows.start : rows.stop + 1]
        reached = offsets_of(lists.similarities[pairs] >= limits.threshold)[edges - pairs.start].diff()
        kept = limits.lengths(reached, edges.diff())
        source = ranges(edges[:-1], kept)
        blocks.append(Neighbors(offsets_of(kept), lists.ids[source], lists.similarities[source]))
    return concatenate(blocks) if blocks else lists


def select(parts: Sequence[Neighbors], limits: Limits) -> Neighbors:
    """The neighbours of some queries, of candidate pairs from several parts, in any order within a row.

    Ids are below 2^32. A pair is sorted as one integer, its similarity's bits before its id: one sort in registers
    instead of an indirect one, and ties go to the lower id.
    """
    counts = torch.stack([part.counts for part in parts])  # [parts, rows]
    starts, total = counts.cumsum(0) - counts, counts.sum(0)
    keys = [_keys(part.similarities, part.ids) for part in parts]
    lowest = _keys(keys[0].new_full((1,), limits.threshold, dtype=torch.float32), keys[0].new_tensor([2**32 - 1]))
    lengths, pieces = torch.zeros_like(total), []
    for rows in _of_like_length(total):
        width = int(total[rows].amax())
        padded = keys[0].new_full((len(rows) * width,), _LARGEST_KEY)
        begin = torch.arange(len(rows), device=rows.device) * width
        for part, key, start, count in zip(parts, keys, starts, counts, strict=True):
            padded[ranges(begin + start[rows], count[rows])] = key[ranges(part.offsets[rows], count[rows])]
        ordered = _sorted(padded.view(-1, width))
        reached = torch.searchsorted(ordered, lowest.repeat(len(rows), 1), right=True).flatten()
        lengths[rows] = limits.lengths(reached, total[rows])
        pieces.append((rows, ordered.reshape(-1)[ranges(begin, lengths[rows])]))
    offsets = offsets_of(lengths)
    ordered = torch.empty(int(offsets[-1]), dtype=torch.int64, device=offsets.device)
    for rows, kept in pieces:
        ordered[ranges(offsets[rows], lengths[rows])] = kept
    bits = ~(ordered >> 32).to(torch.int32)
    return Neighbors(offsets, ordered & 0xFFFFFFFF, (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32))


def merge(parts: Sequence[Neighbors], limits: Limits) -> Neighbors:
    """Neighbours of the same queries in several shards, cut to `limits` each, as one index would give them."""
    return parts[0] if len(parts) == 1 else select(parts, limits)


def _keys(similarities: Tensor, ids: Tensor) -> Tensor:
    """Integers that ascend where the similarity, and then the id, puts a pair later, int64."""
    bits = (similarities + 0.0).view(torch.int32)  # so that there is one zero
    return ((~(bits ^ ((bits >> 31) & 0x7FFFFFFF))).long() << 32) | ids


def _of_like_length(counts: Tensor) -> list[Tensor]:
    """Rows in groups whose counts are within a factor of two, but for the short ones: little is padded."""
    longest = int(counts.amax()) if len(counts) else 0
    edges = [longest >> power for power in range(4)] + [0]
    groups = [((counts <= high) & (counts > low)).nonzero().flatten() for high, low in pairwise(edges)]
    return [rows for rows in groups if len(rows)]


def _sorted(keys: Tensor) -> Tensor:
    """Each row ascending. On a CPU numpy sorts integers in vector instructions, several times as fast as torch."""
    return keys.sort(dim=1).values if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy(), axis=1))


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """start, start + 1, ..., of each start as many as its count, one after the other: int64[sum of counts]."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(starts - before, counts).add_(torch.arange(int(counts.sum()), device=counts.device))


def offsets_of(counts: Tensor) -> Tensor:
    """Where each of several consecutive lists begins, and where the last ends: int64[n + 1]."""
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def concatenate(blocks: Sequence[Neighbors]) -> Neighbors:
    """The lists of consecutive blocks of queries as one."""
    return Neighbors(
        offsets_of(torch.cat([block.counts for block in blocks])),
        torch.cat([block.ids for block in blocks]),
        torch.cat([block.similarities for block in blocks]),
    )


def count_shared(lists: Neighbors, exact: Neighbors) -> tuple[int, int]:
    """How many entries of the lists `exact` are in `lists`, which are of the same rows, and how many there are.

    The first over the second is the recall of the search that gave `lists`.
    """
    rows = torch.arange(len(exact.counts), device=exact.ids.device)
    width = 1 + max((int(one.ids.max()) for one in (lists, exact) if len(one.ids)), default=0)
    ours, theirs = (torch.repeat_interleave(rows, one.counts) * width + one.ids for one in (lists, exact))
    return int(torch.isin(theirs, ours).sum()), len(theirs)


def row_blocks(offsets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Consecutive rows and their pairs, a bounded number of pairs at a time but at least one row."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        start = int(offsets[first])
        last = int(torch.searchsorted(offsets, start + _BLOCK_PAIRS, right=True)) - 1
        last = min(max(last, first + 1), n_rows)
        yield slice(first, last), slice(start, int(offsets[last]))
        first = last
