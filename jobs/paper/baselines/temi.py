"""TEMI: exploring the limits of deep image clustering using pretrained models (Adaloglou et al., BMVC 2023).

Its heads, its loss and its fixed number of nearest neighbours, by the code of ICCE without what ICCE adds (adaptive
neighbours, batch normalisation, Sinkhorn-Knopp, cross-entropy, ensemble, self-training); the head of the lowest loss
labels the rows.

Read into gaps (ours): everything else is as ICCE has it with nothing set: projection of the features, width and
number of heads, steps, learning rate and the horizon of the teacher. TEMI's own, a momentum of 0.996, remembers more
steps than a small set's training has, and its heads then stay where they began.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from icce_ray.core.automatic import automatic
from icce_ray.core.neighbors import Limits
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from jobs.paper.baselines.rows import check_clusters, scaling
from jobs.paper.icce import Fit, Fitted, stage_one, train
from jobs.paper.variants import Variant

#: TEMI's normalisation, teacher and loss.
TEMI: dict[str, Any] = {"input_norm": "standardize", "teacher": "softmax", "ce_weight": 0.0}


def temi(neighbors: int = 50) -> Fit:
    """TEMI as a `Fit`, with so many nearest neighbours of each row (the paper: 50), all others where rows are few."""

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        k, dim = min(neighbors, len(features) - 1), features.shape[1]
        prepare = scaling(features)
        scaled = prepare(features)
        moments = Moments.of(scaled)
        choice = automatic(len(scaled), dim, n_clusters, mean_cosine=moments.mean_cosine, given={"k_min": k})
        projection = Projection.of(moments, choice.components or dim)
        inputs = projection.apply(scaled)
        chosen = {name: value for name, value in asdict(choice).items() if name in {one.name for one in fields(Recipe)}}
        variant = Variant(neighbors="fixed", k_min=k, recipe=Recipe(**chosen | TEMI))
        best = stage_one(train(inputs, mine(inputs, Limits(1.0, k, k)), n_clusters, variant, seed))
        return Fitted(best.labels, lambda rows: best.predict(projection.apply(prepare(rows))))

    return fit
