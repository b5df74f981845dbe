"""Near-duplicates among neighbours: how close a pair is for where it lies, from which limit on, in which groups (ours).

Cosines of copies differ from one kind of features to the next, and so do those of images that are merely alike: 0.98
is a copy among photographs and nothing among handwritten ones. What is comparable is the distance of a pair, divided by
the distance at which either image has its twentieth neighbour (Lowe's ratio test, IJCV 2004, over a longer list). Where
hashes of the pictures are known, bits that agree count as a second witness: images that share strokes but no pixels
are close in features only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

#: The neighbour whose distance is the measure of those before it; of shorter lists the last.
RANK = 20
#: Least of that distance, as a share of its median: in a group of more copies than RANK it is that of a copy.
_FLOOR = 0.25
#: Relative distance of the pairs that are looked at; copies were at 0.8 at most in nearly all cases (`jobs/bench`).
CANDIDATE = 0.8
#: Share of differing bits from which a hash says nothing: those of copies differ in 0.1 at most, others in 0.2 to 0.5.
_TELLING = 0.2
#: Standard deviations of the logarithm below the median of the nearest distances, where the limit is; and its range.
_DEVIATIONS, _LIMITS = 6.0, (0.1, 0.35)
#: Relative distance, as a share of the limit, of pairs that are one image for whatever is near to either.
_TIGHT = 0.25


def scales(offsets: NDArray[np.int64], similarities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Distance (1 - cosine) of the RANK-th neighbour in each of n descending lists, none empty: float32[n]."""
    last = np.minimum(offsets[:-1] + RANK, offsets[1:]) - 1
    return np.maximum(1.0 - similarities[last], 0.0).astype(np.float32)


def floored(scale: NDArray[np.floating]) -> NDArray[np.floating]:
    """`scales` of all images with what is too little raised to a share of the median, and never 0."""
    return np.maximum(scale, max(_FLOOR * float(np.median(scale)), 1e-6))


def relative(
    similarity: NDArray[np.floating], one: NDArray[np.floating], other: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Distance of pairs of these cosines as a share of that of unrelated neighbours: float32[n], 0 for equal images.

    Args:
        similarity: float[n], cosines.
        one: float[n], `floored` scales of the first images.
        other: float[n], of the second ones.
    """
    return (np.maximum(1.0 - similarity, 0.0) / np.sqrt(one * other)).astype(np.float32)


def witnessed(distance: NDArray[np.floating], bits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Relative distances of pairs, less where few bits of their hashes differ: float32[n] of the share of bits."""
    return (distance * np.minimum(bits / _TELLING, 1.0)).astype(np.float32)


def limit_of(nearest: NDArray[np.floating]) -> float:
    """Relative distance up to which a pair is a duplicate, from those of all images to their nearest: float[n].

    Distances of images that are none are about log-normal; copies, which may be most of them, are left out first.
    """
    low, high = _LIMITS
    others = nearest[nearest > low * 2]
    if len(others) < 2 * RANK:
        return low
    middle, lower = np.quantile(np.log(others), [0.5, 0.1])
    deviation = (middle - lower) / 1.2816
    return float(np.clip(np.exp(middle - _DEVIATIONS * deviation), low, high))


def grouped(pairs: NDArray[np.integer], distance: NDArray[np.floating], images: int, limit: float) -> NDArray[np.int64]:
    """The group of each of some images, int64[images]: the least row in it, its own where it is alone.

    Images much nearer than the limit are one. Groups are stars of these: a centre and what is within the limit of it,
    those of most such pairs first; so no chain of images that are alike from one to the next makes a group.

    Args:
        pairs: int[m, 2], rows.
        distance: float[m], relative; 0 for exact copies.
        images: how many.
        limit: relative distance within which a pair is one of duplicates.
    """
    tight = distance <= limit * _TIGHT
    count, label = connected_components(_graph(pairs[tight], images), directed=False)
    between = np.sort(label[pairs[(distance <= limit) & ~tight]], axis=1)
    between = np.unique(between[between[:, 0] != between[:, 1]], axis=0)
    label = _stars(between, count)[label]
    least = np.full(count, images, np.int64)
    np.minimum.at(least, label, np.arange(images))
    return least[label]


def _stars(pairs: NDArray[np.integer], nodes: int) -> NDArray[np.int64]:
    """The centre of each node, itself where none is near."""
    graph, centre = _graph(pairs, nodes), np.arange(nodes)
    degree, free = np.diff(graph.indptr), np.ones(nodes, bool)
    for node in np.argsort(-degree, kind="stable")[: np.count_nonzero(degree)]:
        if free[node]:
            around = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
            centre[around[free[around]]] = node
            free[around] = free[node] = False
    return centre


def _graph(pairs: NDArray[np.integer], nodes: int) -> csr_array:
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return csr_array((np.ones(len(both), bool), (both[:, 0], both[:, 1])), shape=(nodes, nodes))
