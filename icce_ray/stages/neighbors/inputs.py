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
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose
from icce_ray.stages.cluster import completed, grouped, room_for
from icce_ray.stages.features import FeatureRows, write_projection
from icce_ray.store import Store
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
    return FeatureRows.of_space(store, space, {space: components}), facts


def joined_inputs(store: Store, spaces: Mapping[str, tuple[FeatureRows, dict[str, Any]]]) -> tuple[FeatureRows, Any]:
    """The same of the joined space, from those of each; as the recipe sees it, it is not projected again."""
    components = {name: view.components for name, (rows, _) in spaces.items() for view in rows.views}
    rows = FeatureRows.of_space(store, JOINED, components)
    return rows, {"n_images": len(rows), "dim": rows.width(), "mean_cosine": 0.0}


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
