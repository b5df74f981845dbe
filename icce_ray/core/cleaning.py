"""Cleaner neighbours without labels: filters that keep some pairs of given lists (ours; no part of the paper).

The paper's Table 4 shows what clean neighbours would give: with the images of the anchor's class as neighbours the best
head gains 2.8 points. Each filter here asks the lists or an earlier training which pairs to trust:

- `mutual`: both sides list each other (k-reciprocal neighbours, Qin et al. 2011);
- `shared`: both sides have many neighbours in common (Jarvis and Patrick 1973);
- `agreeing`: many heads of an earlier training put both sides into one cluster.

None has earned its place: they make lists purer, and none raises the accuracy of self-training beyond its error on
either set of `icce_ray.studies.cleaner`, which has the figures. They are for that study; no stage uses them.

All keep the order within a list, and none leaves a row with fewer than k_min neighbours where it had as many: the
nearest of what would be left out fill it up, as in the paper's own rule.
"""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from icce_ray.core.neighbors import Neighbors, row_blocks

#: Entries of one block of a product of the lists' matrix with itself: some 400 MB.
_BLOCK_ENTRIES = 2**25
#: Pairs whose labels under all heads are compared at once.
_LABELLED = 2**20


def mutual(lists: Neighbors, k_min: int) -> Neighbors:
    """The pairs that both sides list, and the nearest others up to k_min a row.

    `lists` are of all n rows, ids in [0, n). Holds 8 bytes a pair beside them. Raises ValueError for k_min < 1 and for
    ids out of range.
    """
    _check(lists, k_min)
    n = len(lists.counts)
    rows = torch.arange(n, device=lists.ids.device)
    known = torch.cat(
        [
            torch.repeat_interleave(rows[block], lists.counts[block]) * n + lists.ids[pairs]
            for block, pairs in row_blocks(lists.offsets)
        ]
    )
    known = known.sort().values
    keep = torch.empty(len(lists.ids), dtype=torch.bool, device=lists.ids.device)
    for block, pairs in row_blocks(lists.offsets):
        turned = lists.ids[pairs].long() * n + torch.repeat_interleave(rows[block], lists.counts[block])
        place = torch.searchsorted(known, turned).clamp_max(len(known) - 1)
        keep[pairs] = known[place] == turned
    return kept(lists, keep, k_min)


def shared(lists: Neighbors, level: float, k_min: int) -> Neighbors:
    """The pairs whose neighbourhoods overlap by at least `level`, and the nearest others up to k_min a row.

    The overlap is the number of common neighbours over the size of the smaller neighbourhood, each with its own row in
    it: in (0, 1], and 1 where one holds the other. `lists` are of all n rows, on the CPU. Takes about the sum of the
    lists' lengths over all pairs: for large sets a few times a mining.

    Raises ValueError for a level outside [0, 1], k_min < 1, ids out of range, and lists on another device.
    """
    if lists.ids.device.type != "cpu":
        raise ValueError(f"lists on {lists.ids.device}: shared neighbours are counted on the CPU; give lists.to('cpu')")
    _check(lists, k_min)
    _check_level(level)
    n = len(lists.counts)
    ones = torch.ones(len(lists.ids)).numpy()
    near = sparse.csr_matrix((ones, lists.ids.numpy(), lists.offsets.numpy()), shape=(n, n), copy=True)
    near = (near + sparse.identity(n, dtype="float32", format="csr")).tocsr()
    back = near.T.tocsr()
    sizes = lists.counts + 1
    keep = torch.empty(len(lists.ids), dtype=torch.bool)
    step = max(1, _BLOCK_ENTRIES // n)
    for first in range(0, n, step):
        last = min(first + step, n)
        pairs = slice(int(lists.offsets[first]), int(lists.offsets[last]))
        own = torch.repeat_interleave(torch.arange(first, last), lists.counts[first:last])
        ids = lists.ids[pairs].long()
        # scipy sets flags of the indices, which memory of torch does not allow
        common = (near[first:last] @ back)[(own - first).numpy().copy(), ids.numpy().copy()]
        smaller = torch.minimum(sizes[own], sizes[ids])
        keep[pairs] = torch.from_numpy(common).view(-1).double() / smaller >= level
    return kept(lists, keep, k_min)


def agreeing(lists: Neighbors, head_labels: Tensor, level: float, k_min: int) -> Neighbors:
    """The pairs that at least the share `level` of heads puts into one cluster, and the nearest others up to k_min.

    `head_labels` int[n, H] are of an earlier training, in rows of the lists and on their device; one column is a
    consensus. Raises ValueError for a level outside [0, 1], k_min < 1, ids or labels that do not fit the lists.
    """
    _check(lists, k_min)
    _check_level(level)
    if head_labels.ndim != 2 or len(head_labels) != len(lists.counts):
        raise ValueError(f"head_labels {tuple(head_labels.shape)} for {len(lists.counts)} lists; give int[n, H]")
    rows = torch.arange(len(lists.counts), device=lists.ids.device)
    keep = torch.empty(len(lists.ids), dtype=torch.bool, device=lists.ids.device)
    for block, pairs in row_blocks(lists.offsets):
        own, ids = torch.repeat_interleave(rows[block], lists.counts[block]), lists.ids[pairs].long()
        halves = zip(own.split(_LABELLED), ids.split(_LABELLED), strict=True)
        share = [(head_labels[a] == head_labels[b]).double().mean(1) for a, b in halves]
        keep[pairs] = torch.cat(share) >= level
    return kept(lists, keep, k_min)


def kept(lists: Neighbors, keep: Tensor, k_min: int) -> Neighbors:
    """The pairs where bool[pairs] `keep` is true, and in rows with fewer than k_min of them the nearest others.

    Order within a list, the type of the ids and similarities, where there are any, stay.
    """
    keep, counts = keep.clone(), torch.zeros_like(lists.counts)
    for block, pairs in row_blocks(lists.offsets):
        edges = lists.offsets[block.start : block.stop + 1] - pairs.start
        chosen = _before(keep[pairs])
        missing = (k_min - chosen[edges].diff()).clamp_min(0)
        left_out = _before(~keep[pairs])
        rank = left_out[:-1] - torch.repeat_interleave(left_out[edges[:-1]], edges.diff())
        keep[pairs] |= rank < torch.repeat_interleave(missing, edges.diff())
        counts[block] = _before(keep[pairs])[edges].diff()
    offsets = torch.zeros_like(lists.offsets)
    torch.cumsum(counts, 0, out=offsets[1:])
    similarities = lists.similarities[keep] if len(lists.similarities) else lists.similarities
    return Neighbors(offsets, lists.ids[keep], similarities)


def _before(chosen: Tensor) -> Tensor:
    """How many are true before each place, int64[n + 1]."""
    before = torch.zeros(len(chosen) + 1, dtype=torch.int64, device=chosen.device)
    torch.cumsum(chosen, 0, out=before[1:])
    return before


def _check(lists: Neighbors, k_min: int) -> None:
    if k_min < 1:
        raise ValueError(f"k_min = {k_min}: must be at least 1, else an image may have no neighbour at all")
    if len(lists.ids) and int(lists.ids.max()) >= len(lists.counts):
        raise ValueError(f"neighbour {int(lists.ids.max())} of {len(lists.counts)} rows; give the lists of all rows")


def _check_level(level: float) -> None:
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"level = {level}: a share lies in [0, 1]")
