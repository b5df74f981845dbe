"""Adaptive nearest neighbours: the lists and the rule (paper 3.1, "Adaptive Nearest Neighbors Selection").

The neighbours of image i are the images whose cosine similarity to it reaches `threshold`; fewer than `k_min`
of them are filled up to the `k_min` nearest, more than `k_max` are cut to the `k_max` nearest. Equal similarities
are ordered by id, so a neighbour list is a function of the features alone. `core.search` finds the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

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
    """The rule of the paper on candidate pairs: threshold, then k_min, then k_max.

    `ids` must ascend within a row where similarities are equal: the sort is stable, so ties go to the lower id.
    """
    counts = crow.diff()
    n_rows, width = len(counts), int(counts.max()) if len(counts) else 0
    if width == 0:
        return Neighbors(torch.zeros_like(crow), ids[:0], similarities[:0])
    row = torch.repeat_interleave(torch.arange(n_rows, device=ids.device), counts)
    place = torch.arange(len(ids), device=ids.device) - crow[row]
    padded = torch.full((n_rows, width), -torch.inf, device=ids.device)
    padded[row, place] = similarities
    padded_ids = torch.zeros((n_rows, width), dtype=torch.int64, device=ids.device)
    padded_ids[row, place] = ids
    padded, order = padded.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(width, device=ids.device)
    keep = ((padded >= threshold) | (rank < k_min)) & (rank < k_max) & (rank < counts[:, None])
    offsets = torch.zeros_like(crow)
    torch.cumsum(keep.sum(1), 0, out=offsets[1:])
    return Neighbors(offsets, padded_ids.gather(1, order)[keep], padded[keep])


def merge(parts: list[Neighbors], *, threshold: float, k_min: int, k_max: int) -> Neighbors:
    """Neighbours of the same queries over several shards, in order of their ids, as one index would give them."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.stack([part.counts for part in parts])  # [parts, rows]
    crow = torch.zeros(counts.shape[1] + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts.sum(0), 0, out=crow[1:])
    ids = torch.empty(int(crow[-1]), dtype=torch.int64, device=counts.device)
    scores = torch.empty(len(ids), device=counts.device)
    starts = crow[:-1] + counts.cumsum(0) - counts  # where a part's list begins within a row
    for part, start in zip(parts, starts, strict=True):
        row = torch.repeat_interleave(torch.arange(len(start), device=ids.device), part.counts)
        where = start[row] + torch.arange(len(row), device=ids.device) - part.offsets[row]
        ids[where], scores[where] = part.ids, part.similarities
    # Within a row equal similarities stand in the order of their ids: shards ascend, and each is sorted so.
    return select(crow, ids, scores, threshold=threshold, k_min=k_min, k_max=k_max)


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
    for rows, pairs in _blocks(lists.offsets):
        reached = torch.zeros(pairs.stop - pairs.start + 1, dtype=torch.int64, device=offsets.device)
        torch.cumsum(lists.similarities[pairs] >= threshold, 0, out=reached[1:])
        edges = lists.offsets[rows.start : rows.stop + 1] - pairs.start
        counts = edges.diff()
        lengths[rows] = torch.maximum(reached[edges].diff(), counts.clamp_max(k_min)).clamp_max(k_max)
    torch.cumsum(lengths.clone(), 0, out=lengths)
    ids, similarities = (kept.new_empty(int(offsets[-1])) for kept in (lists.ids, lists.similarities))
    for rows, _ in _blocks(lists.offsets):
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


def _blocks(offsets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Consecutive rows and their pairs, as many as `_BLOCK_PAIRS` hold, at least one row a time."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        start = int(offsets[first])
        last = int(torch.searchsorted(offsets, start + _BLOCK_PAIRS, right=True)) - 1
        last = min(max(last, first + 1), n_rows)
        yield slice(first, last), slice(start, int(offsets[last]))
        first = last
