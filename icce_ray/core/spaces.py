"""Several feature spaces of the same images: what each is worth, and all of them joined (ours).

Rows of length one in each space, side by side and scaled by the roots of the spaces' weights: the cosine of two images
in the joined space is the weighted mean of their cosines in all. The joined space has half of the heads, the spaces
share the other half by their weights, and the consensus is of all: a weak space has few votes.

The weights need no label. Images of classes form groups, and groups show: k-means finds clusters that the graph of the
nearest neighbours confirms (`selection.modularity`). But it does so, too, in any smooth cloud of few dimensions, such
as mean colours, where the cut between two clusters is as good anywhere. So what counts is by how much the space itself
exceeds a cloud without groups, a normal distribution of the same mean and covariance (the idea of the gap statistic,
Tibshirani, Walther and Hastie 2001). Measured in jobs/paper/RESULTS.md, "Several feature spaces".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.heads import derived_seed
from icce_ray.core.neighbors import Limits
from icce_ray.core.sampling import uniform_rows
from icce_ray.core.search import mine, unit_rows
from icce_ray.core.selection import NEAREST, modularity, nearest

#: Images that the weights are found on, at most.
SAMPLE = 5_000
#: Numbers of groups that are tried where the number of clusters is not known.
GROUPS = (5, 10, 20, 40)
#: Fewest images of a group, starts of k-means whose modularities are averaged, and rounds of each.
IMAGES_PER_GROUP, STARTS, ROUNDS = 20, 3, 20
#: Weights follow this power of the excess; a weight below the least is 0.
POWER, LEAST = 2.0, 0.02
STREAM = 5  # of random numbers; head training has 0 and 1, the linear grid 2


def weights(spaces: Sequence[Tensor], n_clusters: int | None, seed: int) -> tuple[float, ...]:
    """What each space is worth, in [0, 1], the sum being 1; equal where no space shows any groups.

    Args:
        spaces: [n, D_s] of any float type each, what neighbours and heads would see; the rows of all images or, of
            more than `SAMPLE`, of a uniform sample (`sampling.uniform_rows`), the same in all spaces. A row of zeros
            is left out of its space.
        n_clusters: groups to look for; None where their number is not known.
        seed: of k-means and of the clouds.
    """
    found = np.array([max(0.0, excess(space, n_clusters, seed)) for space in spaces]) ** POWER
    if not found.any():
        return (1.0 / len(spaces),) * len(spaces)
    found = (found / found.sum()).round(2)  # what the order of a sum changes stays below that
    found[found < LEAST] = 0.0
    return tuple((found / found.sum()).tolist())


def excess(rows: Tensor, n_clusters: int | None, seed: int) -> float:
    """Modularity of groups of `rows` [n, D] less that of groups in a cloud of the same mean and covariance, in (-1, 1).

    Of a number of groups that is not known it is the largest excess. 0 where there are too few rows or all are alike.
    """
    wide = rows.detach().cpu().float()
    wide = wide[wide.any(dim=1)]
    if len(wide) > SAMPLE:
        wide = wide[torch.from_numpy(uniform_rows(len(wide), SAMPLE, seed))]
    most = len(wide) // IMAGES_PER_GROUP
    if most < 2 or not bool((wide != wide[0]).any()):
        return 0.0
    generator = torch.Generator().manual_seed(derived_seed(seed, STREAM))
    mean = wide.mean(0)
    # Normal mixtures of the centred rows are normal, and have their covariance.
    mixing = torch.randn(len(wide), len(wide), generator=generator) / math.sqrt(len(wide))
    cloud = mixing @ (wide - mean) + mean
    counts = sorted({max(2, min(count, most)) for count in ([n_clusters] if n_clusters else GROUPS)})
    return max(np.subtract(_grouping(wide, counts, seed), _grouping(cloud, counts, seed)).tolist())


def _grouping(rows: Tensor, counts: Sequence[int], seed: int) -> list[float]:
    """Mean modularity of k-means' groups on the graph of nearest neighbours, for each number of groups."""
    from scipy.cluster.vq import kmeans2

    k = min(NEAREST, len(rows) - 1)
    unit = unit_rows(rows)
    graph, values, found = nearest(mine(unit, Limits(1.0, k, k)), k), unit.double().numpy(), []
    for count in counts:
        drawn = np.random.default_rng(derived_seed(seed, STREAM, count))
        with warnings.catch_warnings():  # a group may stay without rows where rows are alike
            warnings.simplefilter("ignore", UserWarning)
            starts = [kmeans2(values, count, iter=ROUNDS, minit="++", rng=drawn)[1] for _ in range(STARTS)]
        found.append(float(np.mean([modularity(torch.from_numpy(labels), graph, count) for labels in starts])))
    return found


def join(spaces: Sequence[NDArray[np.float16]], weights: Sequence[float] | None = None) -> NDArray[np.float16]:
    """Rows of S spaces, [n, D_s] each, as float16[n, sum of D_s] of length one; a row depends on no other.

    `weights` are those of the spaces, their sum being 1, by default equal. A space of weight 0 becomes columns of
    zeros. A row of zeros in a space stays zero there.
    """
    shares = [1.0 / len(spaces)] * len(spaces) if weights is None else weights
    parts = []
    for space, share in zip(spaces, shares, strict=True):
        wide = space.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        parts.append(wide * (math.sqrt(share) / np.where(lengths > 0, lengths, 1.0)))
    return np.concatenate(parts, axis=1).astype(np.float16)


def heads_of(heads: int, weights: Sequence[float]) -> tuple[int, ...]:
    """How many of `heads` see each space and, last, the joined one: half of them, rounded up; the sum is `heads`.

    The other half goes to the spaces by weight (largest remainders, the first of equals); 0 for one worth too little.
    A single space has all heads, and nothing is joined.
    """
    if len(weights) == 1:
        return (heads,)
    shared = heads // 2
    exact = [shared * weight for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: shared - sum(counts)]:
        counts[number] += 1
    return (*counts, heads - shared)
