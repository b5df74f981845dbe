"""Part `outliers` of stage `inspect`: images far from all others, by reference images; one pass over the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.outliers import LIMIT, REFERENCES, Distances, distances
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed, room_for
from icce_ray.stages.features import FeatureRows, matrix
from icce_ray.stages.inspect.duplicates import batches
from icce_ray.store import Store
from icce_ray.store.artifacts import OUTLIERS
from icce_ray.store.views import View, seen, spaces_of, views_of

#: Fewer images have nothing to be far from.
LEAST_IMAGES = 50


class _Reference(NamedTuple):
    """What all images are compared with, and how the features are seen."""

    views: tuple[View, ...]
    ids: np.ndarray
    features: torch.Tensor
    usual: Distances


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Find and write them; figures with the limit."""
    del settings, resources, progress
    rows = FeatureRows.of(store)
    figures = {"limit": LIMIT, "images": len(rows), "flagged": 0}
    if len(rows) < LEAST_IMAGES:
        return [], figures | {"skipped": f"{len(rows)} images are too few, {LEAST_IMAGES} are needed"}
    embedded = store.require("embed").summary
    reference = _reference.remote(replace(rows, views=views_of(embedded, spaces_of(embedded)[-1], {})))
    groups = enumerate(batches([info.path for info in rows.files]))
    files = list(completed((_write.remote(store.root, paths, part, reference) for part, paths in groups), room_for(1)))
    return files, figures | {"flagged": sum(info.rows or 0 for info in files)}


@ray.remote(num_cpus=1)
def _reference(rows: FeatureRows) -> _Reference:
    wanted = uniform_rows(len(rows), min(REFERENCES, len(rows)), seed=0)
    features = torch.from_numpy(rows.taken(wanted))
    distance = distances(features, features, np.ones(len(features), bool))
    ids = rows.take(wanted, ["image_id"])["image_id"].to_numpy()
    return _Reference(rows.views, ids, features, Distances.of(distance))


@ray.remote(num_cpus=1)
def _write(root: str, paths: Sequence[str], number: int, reference: _Reference) -> FileInfo:
    """The outliers among the images of some files of features."""
    storage, found = Store(root).storage, []
    view = seen(storage, reference.views)
    for path in paths:
        table = storage.read_table(path, ["image_id", "uri", "key", "features"]).combine_chunks()
        own = np.isin(table["image_id"].to_numpy(), reference.ids)
        features = torch.from_numpy(np.array(view(matrix(table["features"]))))
        scores = reference.usual.scores(distances(features, reference.features, own))
        names = table.drop_columns("features").append_column("score", pa.array(scores))
        found.append(names.filter(pa.array(scores > LIMIT)))
    return OUTLIERS.write(storage, pa.concat_tables(found).combine_chunks(), number)
