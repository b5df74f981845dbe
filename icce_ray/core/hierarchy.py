"""A tree of the classes, from how often heads put images of two of them into one cluster.

Heads that are unsure of two classes mix them, so what the heads mix is alike: evidence accumulation (Fred & Jain 2005)
between classes instead of images. Most pairs of many classes are never mixed, though, and tell nothing about the upper
half of a tree. So two classes are compared by the company that they keep: by their cosine in the diffusion map
(Coifman & Lafon 2006) of a walk that goes from an image to another one of its cluster under some head, `STEPS` times.
Measured against co-association itself and against the classes' mean features: jobs/bench/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

#: Steps of the walk: of 1 to 16, from 4 on the trees are the same or nearly.
STEPS = 4
#: Classes of which a tree is made, at most: matrices of this side are multiplied three times.
MOST_CLASSES = 5_000
#: Classes named as the nearest, and the least chance that a head puts images of both together.
NEAREST, LEAST_TOGETHER = 3, 0.01
#: A class whose company differs from that of all images by less than this share of it is like any other.
_INDISTINCT = 1e-12
#: Decimals of distances: what differs less is a tie, whatever the machine.
_DECIMALS = 6

Merge = tuple[int, int, float]


def co_association(tables: Iterable[sparse.csr_matrix]) -> NDArray[np.float64]:
    """How often a head puts an image of one class and one of another into the same cluster, float64[K, K].

    Args:
        tables: int64 csr [clusters, K] for each head, images of each class in each of its clusters.

    Returns:
        The mean over heads; on the diagonal two images of one class. Zero for a class without images.
    """
    total, heads = np.zeros((0, 0)), 0
    for heads, table in enumerate(tables, 1):
        sizes = np.asarray(table.sum(axis=0)).ravel()
        shares = sparse.csr_matrix(table @ sparse.diags_array(1.0 / np.maximum(sizes, 1)))
        each = sparse.csr_matrix(shares.T @ shares).toarray()
        total = each if heads == 1 else total + each
    return total / max(1, heads)


def nearest(together: NDArray[np.floating]) -> list[list[tuple[int, float]]]:
    """(class, chance) of the classes that heads most often mix with each, clearest first; `together` as above."""
    others = np.array(together)
    np.fill_diagonal(others, 0.0)
    order = np.argsort(-others, axis=1, kind="stable")[:, :NEAREST]
    chances = np.take_along_axis(others, order, axis=1)
    return [
        [(other, round(chance, 4)) for other, chance in zip(row, values, strict=True) if chance >= LEAST_TOGETHER]
        for row, values in zip(order.tolist(), chances.tolist(), strict=True)
    ]


def similarity(together: NDArray[np.floating], sizes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Cosine of each two classes in the diffusion map, float64[K, K] in [-1, 1]; 0 where there is nothing to compare.

    Args:
        together: [K, K] as `co_association` gives it.
        sizes: int[K], images of each class.
    """
    weights = together * np.outer(sizes, sizes)
    degrees = weights.sum(axis=1)
    roots = np.sqrt(np.where(degrees > 0, degrees, 1.0))
    walk = weights / np.outer(roots, roots)
    # All images keep the company that the walk ends in, wherever it began; what is left tells classes apart.
    common = np.sqrt(degrees / max(degrees.sum(), 1.0))
    differing = np.linalg.matrix_power(walk - np.outer(common, common), 2 * STEPS)
    lengths = differing.diagonal()
    clear = lengths > _INDISTINCT * common**2
    scale = np.where(clear, 1.0 / np.sqrt(np.where(clear, lengths, 1.0)), 0.0)
    return np.clip(differing * np.outer(scale, scale), -1.0, 1.0)


def tree(together: NDArray[np.floating], sizes: NDArray[np.integer]) -> list[Merge]:
    """Average linkage (UPGMA) of the classes that have images, nearest first.

    Returns:
        (one, other, distance) of each merge, the distance 1 - `similarity` in [0, 2], never less than the one before.
        Classes are 0 ... K - 1, and merge i makes the node K + i: as in SciPy's linkage, but that classes without
        images do not occur. `one` holds the smallest class of both. The same input gives the same tree.
    """
    classes = np.flatnonzero(sizes)
    if len(classes) < 2:
        return []
    distances = np.round(1.0 - similarity(together, sizes)[np.ix_(classes, classes)], _DECIMALS)
    merged = linkage(squareform((distances + distances.T) / 2, checks=False), "average")
    nodes, first = classes.tolist(), classes.tolist()
    merges: list[Merge] = []
    for one, other, distance, _ in merged.tolist():
        pair = sorted((int(one), int(other)), key=first.__getitem__)
        merges.append((nodes[pair[0]], nodes[pair[1]], round(distance, _DECIMALS)))
        nodes.append(len(sizes) + len(merges) - 1)
        first.append(first[pair[0]])
    return merges


def cut(merges: Sequence[Sequence[float]], n_classes: int, n_superclasses: int) -> NDArray[np.int32]:
    """The superclass of each class, int32[n_classes], -1 for one that is not in the tree.

    Superclasses are numbered by their smallest class. Raises ValueError for fewer than one, or more than the tree has
    classes.
    """
    most = len(merges) + 1
    if not 1 <= n_superclasses <= most:
        raise ValueError(f"{n_superclasses} superclasses asked for; the tree of {most} classes gives 1 to {most}")
    members = {label: [label] for merge in merges for label in map(int, merge[:2]) if label < n_classes}
    for number, (one, other, *_) in enumerate(merges[: most - n_superclasses], n_classes):
        members[number] = members.pop(int(one)) + members.pop(int(other))
    found = np.full(n_classes, -1, np.int32)
    for superclass, labels in enumerate(sorted(members.values(), key=min)):
        found[labels] = superclass
    return found
