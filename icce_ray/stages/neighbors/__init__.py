"""Stage `neighbors`: adaptive neighbour lists from an index sharded over actors (paper 3.1).

Each actor of `index` holds a shard of the unit features. A block of queries is read once and goes to every actor by
reference; a task merges the shards' lists to those that one index would give and writes them (`files`). The driver sees
files and counts only. Exact lists are the same on any number of actors of one kind of hardware; so are those of
inverted lists, which belong to a fixed number of rows and not to an actor, but these miss some neighbours: how many is
measured.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from icce_ray.core.neighbors import Limits, default_k_max
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, described, run_files
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import files
from icce_ray.stages.neighbors.auto import find_numbers
from icce_ray.stages.neighbors.files import load
from icce_ray.stages.neighbors.index import ShardedIndex
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
    count_unknown = settings.count_unknown
    settings, evidence = find_numbers(settings, store, rows, resources, progress)
    limits = limits_of(settings, len(rows))
    if limits.k_min > len(rows) / settings.clusters and settings.neighbors.mode != "ground_truth":
        progress.log(
            f"k_min = {limits.k_min} is more than a class of {len(rows):,} / {settings.clusters} images has: "
            "neighbours will come from other classes; think of a lower neighbors.k_min"
        )
    try:
        written, measured = _mine(settings, store, rows, resources, progress)
    except RayTaskError as error:
        if isinstance(error.cause, (RunError, ValueError)):  # what a task says of its input, without its trace
            raise RunError(str(error.cause)) from error
        raise
    written += described(store, [NEIGHBORS], {info.path for info in written})
    summary = files.count_lists(store, written, limits.k_min)
    progress.log(
        f"{summary['mean_neighbors']:.1f} neighbours on average ({summary['smallest']:,} to {summary['largest']:,}); "
        f"{summary['share_at_k_min']:.0%} of the images have no more than k_min = {limits.k_min}"
    )
    written += [store.storage.describe(path) for path in evidence]
    summary |= asdict(limits) | measured | ({"clusters": settings.clusters} if count_unknown else {})
    return written, summary


def limits_of(settings: Settings, n_images: int) -> Limits:
    """The limits that the settings ask for among so many images. RunError if the threshold is not found yet."""
    chosen = settings.neighbors
    if chosen.mode == "fixed":
        return Limits(1.0, chosen.k_min, chosen.k_min)
    if chosen.threshold == "auto":
        raise RunError(
            "neighbors.threshold = auto: a sweep compares numbers; complete the stage neighbors, whose number is then "
            "taken, or add --param neighbors.threshold=0.3:0.7:0.1"
        )
    k_max = chosen.k_max or default_k_max(n_images, settings.clusters, chosen.k_min)
    return Limits(chosen.threshold, chosen.k_min, k_max)


def _mine(
    settings: Settings, store: Store, rows: FeatureRows, resources: Resources, progress: Progress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Files of the blocks that are missing, and what was measured on the way."""
    starts = range(0, len(rows), settings.neighbors.rows_per_shard)
    done = store.parts(NEIGHBORS, of=len(starts))
    missing = [index for index in range(len(starts)) if index not in done]
    blocks = {index: (starts[index], min(starts[index] + starts.step, len(rows))) for index in missing}
    finished = len(rows) - sum(stop - start for start, stop in blocks.values())
    progress.begin(len(rows), done=finished, unit="images")
    limits, truth = limits_of(settings, len(rows)), None
    if settings.neighbors.mode == "ground_truth":
        # All images of the class, however far and however many.
        limits = Limits(-1.0, 1, len(rows))
        truth = _truth.remote(rows, settings.neighbors.labels or "")
    approximate = truth is None and settings.neighbors.search == "ivf"
    if not (missing or approximate):
        return [], {}
    index = ShardedIndex(rows, settings, resources, truth)
    measured = index.check_recall(settings.neighbors, limits, progress) if approximate else {}
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
