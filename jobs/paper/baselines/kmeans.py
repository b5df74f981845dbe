"""k-means on frozen features (Lloyd 1982, seeded by k-means++), the best of ten starts: scikit-learn's.

It is the first row of TEMI's and TURTLE's tables. A row that was not fitted gets the nearest centre.

Read into gaps (ours):
- Rows are scaled to length one: nearest neighbours, here as in ICCE, are by cosine, and on rows of
  length one squared distances are 2 - 2 cosines. TURTLE's code scales its k-means so only where it joins two spaces.
- 300 rounds of Lloyd at most, scikit-learn's default; TURTLE's code allows 1,000.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icce_ray.core.heads import derived_seed
from icce_ray.core.search import unit_rows
from jobs.paper.baselines.rows import check_clusters, fitted
from jobs.paper.icce import Fit, Fitted

_STREAM = 20  # of random numbers, as in every rival a number of its own


def kmeans(*, starts: int = 10, rounds: int = 300) -> Fit:
    """k-means as a `Fit`: of `starts` runs (10: TURTLE's code) the one with the lowest sum of squared distances.

    The fit raises ValueError unless 1 <= n_clusters <= n, and on rows without a direction.
    """

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        from sklearn.cluster import KMeans

        check_clusters(features, n_clusters)
        make: Any = KMeans  # the stubs know n_init as "auto" only
        model = make(n_clusters, n_init=starts, max_iter=rounds, random_state=derived_seed(seed, _STREAM) % 2**32)
        model.fit(unit_rows(features).cpu().numpy())
        centres = torch.from_numpy(model.cluster_centers_).to(features.device)
        half_squares = centres.square().sum(1) / 2
        # The nearest centre: |x - c|^2 / 2 less |x|^2 / 2, which is the same for every centre.
        return fitted(features, lambda rows: unit_rows(rows) @ centres.T - half_squares)

    return fit
