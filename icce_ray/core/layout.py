"""Images on a map: features laid out in two dimensions by t-SNE, so that neighbours stay neighbours.

t-SNE: van der Maaten and Hinton, JMLR 2008, as openTSNE has it (Policar et al., JSS 2024): it begins with the principal
components, which keep the places of classes to each other (Kobak and Berens, Nat. Commun. 2019), and its learning rates
follow the number of points (Belkina et al., Nat. Commun. 2019). All of the nearest neighbours, which are exact
(`core.search`), attract a point alike (Böhm et al., JMLR 2022): as good as a perplexity, of a sixth of the neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from icce_ray.core.neighbors import Limits
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.search import base_bytes, mine, work_bytes

#: Neighbours that attract a point.
NEAREST = 15
#: Steps by how much attraction is exaggerated: half of what is usual, which kept no fewer neighbours (RESULTS.md).
STEPS = {12.0: 125, 1.0: 250}
#: Rows that the principal components are found from, at most.
_COMPONENT_ROWS = 5000
#: Standard deviation of the first places, and of what tells equal images apart, as openTSNE has them.
_SPREAD, _JITTER = 1e-4, 1e-6
#: Queries that are searched at a time.
_BLOCK_ROWS = 2048

#: Called with the steps done so far, of sum(STEPS.values()).
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Layout:
    """Where n images lie, and which are the nearest to each."""

    places: NDArray[np.float32]
    """float32[n, 2], finite; their mean is zero."""
    neighbor_ids: NDArray[np.int64]
    """Rows, int64[n, k], descending in similarity; k is NEAREST, or n - 1 where that is less."""
    similarities: NDArray[np.float32]
    """Cosines, float32[n, k]."""


def layout_bytes(n: int, dim: int) -> float:
    """Bytes that reading float16 features [n, dim] in parts, joining them and `lay_out` need, about."""
    search = base_bytes(n, dim, "torch") + work_bytes(dim, rows=_BLOCK_ROWS, k_max=NEAREST, device="cpu")
    components = 8.0 * dim * (2 * dim + min(n, _COMPONENT_ROWS))
    return 4.0 * n * dim + max(search, components) + 100.0 * n * NEAREST


def lay_out(features: Tensor, *, seed: int, threads: int, on_progress: OnProgress = lambda done: None) -> Layout:
    """Lay out rows of features [n, D], of any float type, on the CPU.

    The layout is a function of the features and the seed, for any number of threads.

    Args:
        features: as neighbours see them; no row is zero.
        seed: of what tells equal rows apart.
        threads: of the optimisation; the search takes torch's.
        on_progress: called every 25 steps.

    Raises ValueError on rows that are zero or not finite.
    """
    n = len(features)
    if n < 2:
        return Layout(np.zeros((n, 2), np.float32), np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32))
    k = min(NEAREST, n - 1)
    lists = mine(features, Limits(-1.0, k, k), block_rows=_BLOCK_ROWS)
    ids, similarities = (values.view(n, k).numpy() for values in (lists.ids, lists.similarities))
    places = _optimized(_first_places(features, seed), ids, threads, on_progress)
    return Layout((places - places.mean(0)).astype(np.float32), ids, similarities)


def _first_places(features: Tensor, seed: int) -> NDArray[np.float64]:
    """The first two principal components, small, and told apart where rows are equal: float64[n, 2]."""
    sample, components = features[:: math.ceil(len(features) / _COMPONENT_ROWS)], min(2, features.shape[1])
    projection = Projection.of(Moments.of(sample), components)
    places = np.zeros((len(features), 2))
    for start in range(0, len(features), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        places[rows, :components] = (features[rows].double() - projection.mean) @ projection.directions
    deviation = places[:, 0].std()
    if deviation > 0:  # rounded, so that the order in which a library sums is not seen in the layout
        places = np.round(places / deviation, 6) * _SPREAD
    return places + np.random.default_rng(seed).normal(0, _JITTER, places.shape)


def _optimized(
    places: NDArray[np.float64], ids: NDArray[np.int64], threads: int, on_progress: OnProgress
) -> NDArray[np.float64]:
    """Where t-SNE moves points that are attracted by neighbours `ids` int64[n, k]: float64[n, 2]."""
    from openTSNE import TSNEEmbedding, affinity  # and half of scikit-learn, which few who import this need

    n, k = ids.shape
    graph = sparse.csr_matrix((np.ones(n * k), ids.reshape(-1), np.arange(0, n * k + 1, k)), shape=(n, n))
    points = TSNEEmbedding(places, affinity.PrecomputedAffinities(graph + graph.T), n_jobs=threads)
    done = 0
    for exaggeration, steps in STEPS.items():

        def report(step: int, error: float, embedding: object, done: int = done) -> None:
            on_progress(done + step)

        points = points.optimize(steps, exaggeration=exaggeration, callbacks=[report], callbacks_every_iters=25)
        done += steps
    return np.asarray(points, np.float64)
