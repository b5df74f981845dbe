"""Part `map` of stage `inspect`: a uniform sample of the images, laid out in two dimensions.

Tasks read the rows that were drawn, and one task lays them out; the driver sees neither features nor places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.layout import STEPS, Layout, lay_out, layout_bytes
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, grouped, room_for
from icce_ray.stages.features import FeatureRows, list_column, matrix
from icce_ray.stages.remote_progress import Report, remote_progress
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MAP, NAMES, PREDICTIONS
from icce_ray.store.views import seen, spaces_of

#: CPUs that the layout takes where they are there: more wait for each other.
_MOST_CPUS = 8


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Write the map; no file where `inspect.map_images` is 0. Raises RunError if no node has the memory for it."""
    rows = _rows(settings, store)
    size = min(settings.inspect.map_images, len(rows))
    summary = {"images": size, "of": len(rows)}
    if not size:
        return [], summary
    needed = layout_bytes(size, rows.width())
    _check_memory(size, needed)
    labels = FeatureRows(store.root, tuple(PREDICTIONS.files(store.require("predict").files)))
    wanted = ray.get(ray.remote(num_cpus=0.5)(uniform_rows).remote(len(rows), size, settings.seed))
    both = ray.put((rows, labels))
    parts = [_take.remote(both, chosen) for chosen in _groups(rows, wanted)]
    cpus = max(1, min(resources.cores, _MOST_CPUS))
    place: Any = _place.options(num_cpus=cpus, memory=int(needed))
    with remote_progress(progress, sum(STEPS.values()), unit="steps") as actor:
        info: Any = ray.get(place.remote(store.root, settings.seed, cpus, actor, *parts))
    return [info], summary


def _rows(settings: Settings, store: Store) -> FeatureRows:
    """All accepted images as neighbours see them."""
    mined, space = store.require("neighbors").summary, spaces_of(store.require("embed").summary)[-1]
    figures = mined["by_space"] if space else {"": {"components": settings.neighbors.components or 0}}
    return replace(FeatureRows.of_space(store, space, figures), files=FeatureRows.of(store).files)


def _check_memory(size: int, needed: float) -> None:
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if needed > most:
        raise RunError(
            f"a map of {size:,} images (inspect.map_images) needs {needed / 1e9:.1f} GB, but no node has more than "
            f"{most / 1e9:.1f} GB; lower it with --redo inspect, or add a node with more memory"
        )


def _groups(rows: FeatureRows, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """The rows that each task takes, ascending: those of some files."""
    edges = np.searchsorted(wanted, [start for start, _ in rows.blocks()])
    files = [part for part in np.split(wanted, edges[1:]) if len(part)]
    return map(np.concatenate, grouped(files, room_for(0.5)()))


@ray.remote(num_cpus=0.5)
def _take(both: tuple[FeatureRows, FeatureRows], wanted: np.ndarray) -> pa.Table:
    """Names, labels and features of some rows."""
    rows, labels = both
    view = seen(Store(rows.root).storage, rows.views)
    features = view(matrix(rows.take(wanted, ["features"])["features"]))
    return labels.take(wanted, ["image_id", *NAMES, "label"]).append_column("features", list_column(features))


@ray.remote
def _place(root: str, seed: int, cpus: int, actor: Any, *parts: pa.Table) -> FileInfo:
    """Lay out all parts together and write the map."""
    torch.set_num_threads(cpus)
    table = pa.concat_tables(parts).combine_chunks()
    found = lay_out(
        torch.tensor(matrix(table["features"])),
        seed=seed,
        threads=cpus,
        on_progress=lambda done: actor.report.remote(Report(done)),
    )
    columns = {name: table[name] for name in ("image_id", *NAMES, "label")} | _columns(found, table["image_id"])
    return MAP.write(Store(root).storage, pa.table(columns))


def _columns(found: Layout, image_ids: pa.ChunkedArray) -> dict[str, Any]:
    """Places and lists of neighbours as they are stored."""
    n, k = found.neighbor_ids.shape
    offsets = pa.array(np.arange(0, n * k + 1, k) if k else np.zeros(n + 1), pa.int64())
    ids = image_ids.take(pa.array(found.neighbor_ids.reshape(-1))).combine_chunks()
    lists = {"neighbor_ids": ids, "similarities": pa.array(found.similarities.reshape(-1))}
    return {"x": found.places[:, 0].copy(), "y": found.places[:, 1].copy()} | {
        name: pa.LargeListArray.from_arrays(offsets, values) for name, values in lists.items()
    }
