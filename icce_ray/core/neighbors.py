"""Adaptive nearest neighbours: the lists and the rule (paper 3.1, "Adaptive Nearest Neighbors Selection").

The neighbours of image i are the images whose cosine similarity to it reaches `threshold`; fewer than `k_min`
of them are filled up to the `k_min` nearest, more than `k_max` are cut to the `k_max` nearest. Equal similarities
are ordered by id, so a neighbour list is a function of the features alone. `core.search` finds the candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
