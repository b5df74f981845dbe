"""Stage `neighbors`: adaptive neighbour lists from an index sharded over actors (paper 3.1).

Each actor of `index` holds a shard of the unit features. A block of queries is read once and goes to every actor by
reference; a task merges the shards' lists to those that one index would give and writes them (`files`). The driver sees
files and counts only. Exact lists are the same on any number of actors of one kind of hardware; so are those of
inverted lists, which belong to a fixed number of rows and not to an actor, but these miss some neighbours (`recall`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from icce_ray.core import neighbors as core
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, described, run_files
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import files
from icce_ray.stages.neighbors.auto import resolved
from icce_ray.stages.neighbors.files import load
from icce_ray.stages.neighbors.index import ShardedIndex
from icce_ray.stages.neighbors.recall import check_recall
from icce_ray.stages.truth import truth_of_rows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS

__all__ = ["limits_of", "load", "run"]


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress, rows: FeatureRows | None = None
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Mine the neighbours of every block of images whose shard is not there yet.

    `rows` are those of another store, whose neighbours a sweep keeps in a place of its own; by default the store's.
    """
    rows = rows or FeatureRows.training(store)
    unknown = settings.count_unknown
    settings, evidence = resolved(settings, store, rows, resources, progress)
    size = settings.neighbors.rows_per_shard
    blocks = [(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    done = store.parts(NEIGHBORS, of=len(blocks))
    missing = [index for index in range(len(blocks)) if index not in done]
    finished = sum(stop - start for index, (start, stop) in enumerate(blocks) if index in done)
    progress.begin(len(rows), done=finished, unit="images")
    limits = limits_of(settings, len(rows))
    if limits["k_min"] > len(rows) / settings.clusters and settings.neighbors.mode != "ground_truth":
        progress.log(
            f"k_min = {limits['k_min']} is more than a class of {len(rows):,} / {settings.clusters} images has: "
            "neighbours will come from other classes; think of a lower neighbors.k_min"
        )
    try:
        found, measured = _mined(settings, store, rows, blocks, missing, finished, resources, progress)
    except RayTaskError as error:
        if isinstance(error.cause, (RunError, ValueError)):  # what a task says of its input, without its trace
            raise RunError(str(error.cause)) from error
        raise
    found += described(store, [NEIGHBORS], {info.path for info in found})
    counts = files.counted(store, found, limits["k_min"])
    progress.log(
        f"{counts['mean_neighbors']:.1f} neighbours on average ({counts['smallest']:,} to {counts['largest']:,}); "
        f"{counts['share_at_k_min']:.0%} of the images have no more than k_min = {limits['k_min']}"
    )
    found += [store.storage.describe(path) for path in evidence]
    return found, counts | limits | measured | ({"clusters": settings.clusters} if unknown else {})


def limits_of(settings: Settings, n_images: int) -> dict[str, Any]:
    """threshold, k_min and k_max with defaults filled in. Raises RunError on a threshold that is not known yet."""
    chosen = settings.neighbors
    if chosen.mode == "fixed":
        return {"threshold": 1.0, "k_min": chosen.k_min, "k_max": chosen.k_min}
    if chosen.threshold == "auto":
        raise RunError(
            "neighbors.threshold = auto: a sweep compares numbers; complete the stage neighbors, whose number is then "
            "taken, or add --param neighbors.threshold=0.3:0.7:0.1"
        )
    k_max = chosen.k_max or core.default_k_max(n_images, settings.clusters, chosen.k_min)
    return {"threshold": chosen.threshold, "k_min": chosen.k_min, "k_max": k_max}


def _mined(
    settings: Settings,
    store: Store,
    rows: FeatureRows,
    blocks: list[tuple[int, int]],
    missing: list[int],
    finished: int,
    resources: Resources,
    progress: Progress,
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Files of the missing blocks, and what was measured on the way."""
    limits = limits_of(settings, len(rows))
    truth = None
    if settings.neighbors.mode == "ground_truth":
        # All images of the class, however far and however many.
        limits = {"threshold": -1.0, "k_min": 1, "k_max": len(rows)}
        truth = _truth.remote(rows, settings.neighbors.labels or "")
    approximate = truth is None and settings.neighbors.search == "ivf"
    if not (missing or approximate):
        return [], {}
    index = ShardedIndex(rows, settings, resources, truth)
    measured = check_recall(index, settings.neighbors, limits, progress) if approximate else {}
    image_ids = files.image_ids.remote(rows)
    write: Any = files.write_merged

    def submit(block: int) -> Any:
        start, stop = blocks[block]
        return write.remote(store.root, rows, block, start, image_ids, limits, *index.search(start, stop, limits))

    # A block waits in every actor's queue while others are merged: more nodes merge more at a time.
    limit = 2 + 2 * resources.nodes
    return run_files(submit, missing, limit=limit, finished=finished, progress=progress), measured


@ray.remote(num_cpus=0.25)
def _truth(rows: FeatureRows, location: str) -> np.ndarray:
    """Class of every image, int64[N]. Raises RunError where one has none, or its class to itself."""
    truth = truth_of_rows(Store(rows.root), rows, location)
    alone = np.flatnonzero(np.bincount(truth)[truth] == 1)
    if len(alone):
        raise RunError(
            f"{location}: {rows.table(int(alone[0]), int(alone[0]) + 1, ['uri'])['uri'][0]} is alone in its class, so "
            f"it has no ground-truth neighbour ({len(alone)} such images); give every class at least 2 images"
        )
    return truth
