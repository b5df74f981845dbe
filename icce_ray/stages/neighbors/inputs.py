"""What neighbours and heads see of the features: their principal components, or all of them (`core.projection`).

Tasks sum the moments of the files, the driver adds them up and keeps the projection in the run; whoever reads the rows
then projects them, so that no second copy of the features is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch

from icce_ray.core.projection import Moments, Projection, sum_moments
from icce_ray.core.sampling import uniform_rows
from icce_ray.core.spaces import SAMPLE, weights
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose
from icce_ray.stages.cluster import completed, grouped, room_for
from icce_ray.stages.features import FeatureRows, write_projection
from icce_ray.stages.neighbors.auto import kept
from icce_ray.store import Store
from icce_ray.store.artifacts import SPACE_WEIGHTS
from icce_ray.store.views import JOINED


def inputs(settings: Settings, store: Store, space: str = "") -> tuple[FeatureRows, dict[str, Any]]:
    """The rows to mine and learn from, and what the recipe depends on: `n_images`, `dim` and `mean_cosine`.

    Of several feature spaces those of one.
    """
    rows = FeatureRows.of_space(store, space, {})
    facts: dict[str, Any] = {"n_images": len(rows), "dim": rows.width(), "mean_cosine": 0.0}
    # Products of all columns are the larger part of the work, and few sets are projected only for their mean cosine.
    moments = _moments(rows, products=choose(settings, **facts).components > 0)
    facts["mean_cosine"] = moments.mean_cosine
    components = choose(settings, **facts).components
    if not components:
        return rows, facts
    if not len(moments.products):
        moments = _moments(rows, products=True)
    write_projection(store, Projection.of(moments, components), space)
    return FeatureRows.of_space(store, space, {space: {"components": components}}), facts


def joined_inputs(
    store: Store, spaces: Mapping[str, FeatureRows], weights: Mapping[str, float]
) -> tuple[FeatureRows, dict[str, Any]]:
    """The same of the joined space, from the rows and the weight of each; it is not projected again."""
    figures = {
        name: {"components": view.components, "weight": weights[name]}
        for name, rows in spaces.items()
        for view in rows.views
    }
    rows = FeatureRows.of_space(store, JOINED, figures)
    return rows, {"n_images": len(rows), "dim": rows.width(), "mean_cosine": 0.0}


def weights_of(settings: Settings, store: Store, spaces: Mapping[str, FeatureRows]) -> dict[str, float]:
    """What each space is worth in the joined one; what a killed run has found is kept."""
    clusters = None if settings.count_unknown else settings.clusters
    found = kept(
        store,
        SPACE_WEIGHTS,
        lambda: dict(
            zip(spaces, ray.get(_weights.remote(list(spaces.values()), clusters, settings.seed)), strict=True)
        ),
    )
    return {name: float(found[name]) for name in spaces}


@ray.remote(num_cpus=1)
def _weights(spaces: Sequence[FeatureRows], clusters: int | None, seed: int) -> tuple[float, ...]:
    wanted = uniform_rows(len(spaces[0]), min(SAMPLE, len(spaces[0])), seed)
    return weights([torch.from_numpy(rows.taken(wanted)) for rows in spaces], clusters, seed)


def _moments(rows: FeatureRows, *, products: bool) -> Moments:
    """Of all rows, summed in the order of the files, whichever task ends first."""
    room = room_for(0.5)
    groups = grouped([(start, stop) for start, stop in rows.blocks() if start < stop], room())
    tasks = (_sum.remote(rows, number, group, products) for number, group in enumerate(groups))
    return sum_moments(part for _, part in sorted(completed(tasks, room), key=lambda pair: pair[0]))


@ray.remote(num_cpus=0.5)
def _sum(rows: FeatureRows, number: int, blocks: Sequence[tuple[int, int]], products: bool) -> tuple[int, Moments]:
    features = (torch.from_numpy(rows.features(*block)) for block in blocks)
    return number, sum_moments(Moments.of(one, products=products) for one in features)
