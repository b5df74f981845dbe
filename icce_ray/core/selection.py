"""Which of several labellings of the same images is best, judged without labels.

The objective is the modularity of a labelling on the graph of the nearest neighbours, the same graph whatever the
settings compared: the share of edges within clusters, less the share that cluster sizes alone would give (Newman and
Girvan 2004; on a directed graph Leicht and Newman 2008). One cluster for all images gets 0, c clusters in use at most
1 - 1/c, so collapsed solutions lose by themselves.

Chosen by measurement (jobs/bench/RESULTS.md, "A label-free objective"): over eight sweeps each on two sets of digits
its pick is on average 0.7 points of ACC below the best; that of ANMI (paper eq. 4-7) 6.5, one at random 4.8. How far
the heads agree, be it ANMI or their mean pairwise NMI, AMI or ARI, *falls* where a higher threshold makes better
neighbours: strict neighbours make heads diverse and their consensus better, a low threshold makes all heads alike, and
alike wrong.

It fails where the nearest neighbours are of another class than the image: nothing but the features is asked. Across
numbers of clusters it is a guide to within a few: its bound rises with their number, and a class that the features
split in two is worth splitting to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icce_ray.core.neighbors import Neighbors, offsets_of

#: Neighbours an image of the graph: 20 pick a little better than 10.
NEAREST = 20


def nearest(lists: Neighbors, k: int) -> Tensor:
    """The k nearest of every row, in the type of the ids, [N, k]. Raises ValueError if a list is shorter."""
    shortest = int(lists.counts.min())
    if shortest < k:
        raise ValueError(f"the shortest list has {shortest} neighbours, the graph takes {k}; mine with k_min >= {k}")
    return lists.ids[lists.offsets[:-1, None] + torch.arange(k, device=lists.ids.device)]


def modularity(labels: Tensor, graph: Tensor, n_clusters: int) -> float:
    """Modularity of `labels` int[N] in [0, n_clusters) on the graph int[N, k] of each row's neighbours, in [-1, 1)."""
    labels = labels.long()
    inside = torch.zeros((), dtype=torch.int64, device=labels.device)
    ends = torch.zeros(n_clusters, dtype=torch.int64, device=labels.device)
    for column in graph.T:  # of a few neighbours, so that no [N, k] of labels is held
        found = labels[column.long()]
        inside += (found == labels).sum()
        ends += torch.bincount(found, minlength=n_clusters)
    edges = graph.numel()
    starts = torch.bincount(labels, minlength=n_clusters).double() / len(labels)
    return float(inside.double() / edges - (starts * (ends.double() / edges)).sum())


def neighbor_accuracy(lists: Neighbors, truth: Tensor, block_rows: int = 8192) -> float:
    """Chance that an anchor and its drawn neighbour are of one class, in [0, 1].

    Every anchor counts once, as in training; `pair_accuracy` counts every pair once, as the paper's Table 11.

    `truth` int[N] is -1 where the class is not known; those count neither as anchors nor as neighbours. NaN if no list
    of a known anchor holds a known neighbour.
    """
    total = torch.zeros((), dtype=torch.float64, device=truth.device)
    anchors = torch.zeros((), dtype=torch.int64, device=truth.device)
    for start in range(0, len(truth), block_rows):
        offsets = lists.offsets[start : start + block_rows + 1]
        own = truth[start : start + block_rows]
        other = truth[lists.ids[offsets[0] : offsets[-1]].long()]
        known = other >= 0
        same = known & (other == torch.repeat_interleave(own, offsets.diff()))
        right, count = (offsets_of(chosen)[offsets - offsets[0]].diff().double() for chosen in (same, known))
        usable = (own >= 0) & (count > 0)
        total += (right[usable] / count[usable]).sum()
        anchors += usable.sum()
    return float(total / anchors)


def pair_accuracy(lists: Neighbors, truth: Tensor) -> float:
    """Share of all (anchor, neighbour) pairs that are of one class, in [0, 1] (paper Table 11).

    `truth` int[N] is the class of every row; the lists are of the first rows of them.
    """
    own = torch.repeat_interleave(truth[: len(lists.counts)], lists.counts)
    return float((truth[lists.ids.long()] == own).double().mean())
