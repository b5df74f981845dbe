"""Clusterings without a training of heads, in seconds: what a method that trains has to be better than.

- *Spherical k-means* (Dhillon & Modha 2001): k-means of directions, centres scaled to length one.
- *Ward* (1963): scikit-learn's agglomeration; more than `WARD_ROWS` rows are grouped by k-means first.
- *Spectral clustering* (Ng, Jordan & Weiss 2002): scikit-learn's, on the graph of the 10 nearest.
- *Gaussian mixture*: full covariances on 24 principal components, the best of five starts by likelihood.
- *Ensembles* of mixtures and of k-means (Strehl & Ghosh 2002): each member on its own number of leading components and
  from its own start, joined by the consensus that ICCE joins its heads by.

All see rows less their mean, on their leading principal components, scaled to length one: raw rows of some backbones
all point the same way. A row that was not fitted gets what the method says of it: the nearest centre, the most probable
component. Where it says nothing (Ward, spectral, ensembles) the majority of its 10 nearest rows decides (ours).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.consensus.ensemble import consensus
from icce_ray.core.heads import derived_seed
from icce_ray.search.partition import PARTITIONERS
from jobs.paper.baselines.rows import check_clusters, fitted
from jobs.paper.icce import Fit, Fitted

Rows = NDArray[np.float64]
Labels = Callable[[Rows, int, int], NDArray[Any]]
"""Labels [n] of rows [n, d], a number of clusters and a seed."""

_STREAM = 24
COMPONENTS = 128
#: Ward holds the distances of all pairs of rows.
WARD_ROWS = 6000
NEAREST = 10
_BLOCK_ROWS = 1024


def spherical_kmeans(*, starts: int = 10, rounds: int = 100) -> Fit:
    """Spherical k-means as a `Fit`: of `starts` runs the one with the largest sum of cosines."""

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        prepare = principal_directions(features)
        rows = prepare(features)
        generator = torch.Generator().manual_seed(derived_seed(seed, _STREAM))
        runs = [_spherical(rows, n_clusters, rounds, generator) for _ in range(starts)]
        centres = max(runs, key=lambda centres: float((rows @ centres.T).amax(1).sum()))
        return fitted(features, lambda new: prepare(new) @ centres.T)

    return fit


def ward() -> Fit:
    """Ward's agglomeration as a `Fit`."""

    def labels(rows: Rows, n_clusters: int, seed: int) -> NDArray[Any]:
        from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans

        groups = np.arange(len(rows))
        if len(rows) > WARD_ROWS:
            make: Any = MiniBatchKMeans
            groups = make(max(WARD_ROWS // 3, n_clusters), n_init=1, random_state=seed).fit_predict(rows)
            groups = np.unique(groups, return_inverse=True)[1]
            rows = np.stack([np.bincount(groups, column) for column in rows.T], axis=1) / np.bincount(groups)[:, None]
        return AgglomerativeClustering(n_clusters).fit_predict(rows)[groups]

    return _of_rows_fitted(labels)


def spectral() -> Fit:
    """Spectral clustering as a `Fit`."""

    def labels(rows: Rows, n_clusters: int, seed: int) -> NDArray[Any]:
        from sklearn.cluster import SpectralClustering
        from sklearn.neighbors import kneighbors_graph

        graph: Any = kneighbors_graph(rows, min(NEAREST, len(rows) - 1), include_self=True)
        model = SpectralClustering(n_clusters, affinity="precomputed", random_state=seed)
        with warnings.catch_warnings():  # clusters that no edge joins are what is looked for
            warnings.filterwarnings("ignore", "Graph is not fully connected")
            return model.fit_predict((graph + graph.T) / 2)

    return _of_rows_fitted(labels)


def mixture(*, components: int = 24, starts: int = 5) -> Fit:
    """A mixture of Gaussians as a `Fit`."""

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        prepare = principal_directions(features, components)
        model = _mixture(_numpy(prepare(features)), n_clusters, derived_seed(seed, _STREAM), starts)
        return fitted(features, lambda new: torch.from_numpy(model.predict_proba(_numpy(prepare(new)))))

    return fit


def mixture_ensemble(*, members: int = 24) -> Fit:
    """The consensus of mixtures of Gaussians on the first 8 to 40 components as a `Fit`."""

    def label(rows: Rows, n_clusters: int, seed: int) -> NDArray[Any]:
        return _mixture(rows, n_clusters, seed).predict(rows)

    return _of_rows_fitted(_ensemble(label, members, (8, 40)))


def kmeans_ensemble(*, members: int = 24) -> Fit:
    """The consensus of runs of k-means on the first 16 to 128 components as a `Fit`."""

    def label(rows: Rows, n_clusters: int, seed: int) -> NDArray[Any]:
        from sklearn.cluster import KMeans

        make: Any = KMeans  # the stubs know n_init as "auto" only
        return make(n_clusters, n_init=1, random_state=seed % 2**32).fit_predict(rows)

    return _of_rows_fitted(_ensemble(label, members, (16, COMPONENTS)))


def principal_directions(features: Tensor, components: int = COMPONENTS) -> Callable[[Tensor], Tensor]:
    """The function from rows [m, D] of any set to directions float32[m, d] on the leading components of `features`.

    Raises ValueError on features that are not finite or all the same.
    """
    mean = features.double().mean(0)
    centred = features.double() - mean
    if not (bool(centred.isfinite().all()) and bool(centred.any())):
        raise ValueError("the features have values that are not finite, or no row but one, as of zeros; remove these")
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :components].float()
    return lambda rows: F.normalize((rows.float() - mean.float()) @ axes, dim=1)


def _spherical(rows: Tensor, n_clusters: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Centres float32[K, d] of length one, after `rounds` of Lloyd at most."""
    centres = rows[_far_apart(rows, n_clusters, generator)]
    label = torch.full((len(rows),), -1)
    for _ in range(rounds):
        nearest = (rows @ centres.T).argmax(1)
        if bool((nearest == label).all()):
            break
        label = nearest
        sums = torch.zeros_like(centres).index_add_(0, label, rows)
        centres = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), centres)
    return centres


def _far_apart(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers of rows, each drawn by its distance from those drawn before (Arthur & Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    distance = torch.full((len(rows),), torch.inf)
    for _ in range(count - 1):
        distance = torch.minimum(distance, 1 - rows @ rows[chosen[-1]])
        chosen.append(int(torch.multinomial(distance.clamp_min(1e-9), 1, generator=generator)))
    return torch.tensor(chosen)


def _mixture(rows: Rows, n_clusters: int, seed: int, starts: int = 1) -> Any:
    from sklearn.mixture import GaussianMixture

    # A little more variance than scikit-learn's: clusters of few rows have none in some direction.
    model = GaussianMixture(n_clusters, n_init=starts, max_iter=50, tol=1e-2, reg_covar=1e-4, random_state=seed % 2**32)
    return model.fit(rows)


def _ensemble(member: Labels, members: int, components: tuple[int, int]) -> Labels:
    """The consensus of members, each on its own number of leading components, drawn from a range."""

    def labels(rows: Rows, n_clusters: int, seed: int) -> NDArray[Any]:
        widest = min(components[1], rows.shape[1])
        widths = np.random.default_rng(seed).integers(min(components[0], widest), widest + 1, members)
        each = [member(rows[:, :width], n_clusters, seed + place) for place, width in enumerate(widths)]
        return consensus(np.stack(each, axis=1), n_clusters, PARTITIONERS, seed=seed).label

    return labels


def _of_rows_fitted(labels: Labels) -> Fit:
    """A method that only labels the rows it is given, as a `Fit`: another row follows the majority of its nearest."""

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        prepare = principal_directions(features)
        rows = prepare(features)
        own = np.zeros(len(rows), np.int32)
        if n_clusters > 1:
            own = labels(_numpy(rows), n_clusters, derived_seed(seed, _STREAM) % 2**31).astype(np.int32)
        votes = F.one_hot(torch.from_numpy(own).long(), n_clusters)

        def predict(new: Tensor) -> NDArray[np.int32]:
            blocks = [prepare(block) @ rows.T for block in new.split(_BLOCK_ROWS)]
            nearest = [block.topk(min(NEAREST, len(rows))).indices for block in blocks]
            return votes[torch.cat(nearest)].sum(1).argmax(1).to(torch.int32).numpy()

        return Fitted(own, predict)

    return fit


def _numpy(rows: Tensor) -> Rows:
    return rows.numpy().astype(np.float64)
