"""Part `quality` of stage `inspect`: images that are blurred, dark, bright, blank, small or narrow.

Two passes over the small columns that `embed` has measured: the first for the limits, by histograms that are added up,
the second for the images beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.quality import PROBLEMS, flagged, histograms, limits, shown, values
from icce_ray.io.storage import ColumnError, FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed_groups
from icce_ray.stages.features import FeatureRows
from icce_ray.store import Store
from icce_ray.store.artifacts import NAMES, QUALITY

_MEASURED = ["width", "height", "brightness", "contrast", "sharpness"]
Shards = Sequence[tuple[int, str]]
"""Numbers and paths of files of features."""


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Write the images that have trouble, one shard for each of the features whose pictures were measured.

    Figures: images that were measured and that were not, and of each problem the limit and how many images have it.
    """
    del settings, resources
    rows = FeatureRows.of(store)
    shards = list(enumerate(info.path for info in rows.files))
    measured, bars = [], histograms({name: np.empty(0) for name in _MEASURED})
    for numbers, counts in completed_groups(lambda some: _count.remote(store.root, some), shards, cpus=0.25):
        measured += numbers
        bars += counts
    images = int(bars[0].sum())
    if images < len(rows):
        progress.log(
            f"{len(rows) - images:,} of {len(rows):,} images were not measured for trouble: their features are from "
            "elsewhere, or of an earlier version (--redo embed measures those)"
        )
    limit, found, files = limits(bars), dict.fromkeys(PROBLEMS, 0), []
    chosen = [shards[number] for number in sorted(measured)]
    for written, counts in completed_groups(lambda some: _flag.remote(store.root, some, limit), chosen, cpus=0.25):
        files += written
        found = {name: found[name] + count for name, count in counts.items()}
    problems = {name: {"limit": shown(name, limit[name]), "images": found[name]} for name in PROBLEMS if files}
    return files, {"images": images, "unmeasured": len(rows) - images, "problems": problems}


def _figures(storage: Any, path: str, names: Sequence[str]) -> pa.Table | None:
    """Columns of a file, None where its pictures were not measured."""
    try:
        return storage.read_table(path, [*names, *_MEASURED])
    except ColumnError:
        return None


@ray.remote(num_cpus=0.25)
def _count(root: str, shards: Shards) -> tuple[list[int], np.ndarray]:
    """Numbers of the files that were measured, and the histograms of all of them."""
    storage, numbers, bars = Store(root).storage, [], histograms({name: np.empty(0) for name in _MEASURED})
    for number, path in shards:
        table = _figures(storage, path, ())
        if table is not None:
            numbers.append(number)
            bars += histograms({name: table[name].to_numpy() for name in _MEASURED})
    return numbers, bars


@ray.remote(num_cpus=0.25)
def _flag(root: str, shards: Shards, limit: dict[str, float]) -> tuple[list[FileInfo], dict[str, int]]:
    """Write the images beyond the limits, a row for each of its problems; how many there are of each."""
    storage, files, found = Store(root).storage, [], dict.fromkeys(PROBLEMS, 0)
    for number, path in shards:
        table = storage.read_table(path, ["image_id", *NAMES, *_MEASURED]).combine_chunks()
        figures = {name: table[name].to_numpy() for name in _MEASURED}
        own, trouble = values(figures), flagged(figures, limit)
        parts = [table.select(["image_id", *NAMES]).slice(0, 0)]
        problems, shares = [], [np.empty(0, np.float32)]
        for name, which in trouble.items():
            rows = np.flatnonzero(which)
            parts.append(table.select(["image_id", *NAMES]).take(pa.array(rows)))
            problems += [name] * len(rows)
            shares.append(shown(name, own[name][rows]).astype(np.float32))
            found[name] += len(rows)
        flags = pa.concat_tables(parts).append_column("problem", pa.array(problems, pa.string()))
        flags = flags.append_column("value", pa.array(np.concatenate(shares)))
        files.append(QUALITY.write(storage, flags.sort_by("image_id").combine_chunks(), number))
    return files, found
