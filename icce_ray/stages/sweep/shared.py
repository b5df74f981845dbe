"""What the trials of a sweep share: neighbours mined once for all of them, and arrays loaded once a node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from icce_ray.core.selection import NEAREST
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sweep.record import Record
from icce_ray.stages.sweep.trial import Shared
from icce_ray.stages.truth import labels_for, read_truth
from icce_ray.store import RunError, Store, fingerprint


def needed(trials: Sequence[Trial], n_images: int) -> dict[str, Any]:
    """Limits whose lists hold those of every trial, and the objective's graph."""
    limits = [neighbors.limits_of(trial.settings, n_images) for trial in trials]
    k_min = max(graph_width(n_images), *(one["k_min"] for one in limits))
    return {
        "threshold": min(one["threshold"] for one in limits),
        "k_min": k_min,
        "k_max": max(k_min, *(one["k_max"] for one in limits)),
    }


def graph_width(n_images: int) -> int:
    """Neighbours an image of the objective's graph: of few images all others."""
    return min(NEAREST, n_images - 1)


def serves(mined: dict[str, Any], limits: dict[str, Any]) -> bool:
    """Whether lists mined with some limits hold all that is needed."""
    return (
        mined["threshold"] <= limits["threshold"]
        and mined["k_min"] >= limits["k_min"]
        and mined["k_max"] >= limits["k_max"]
    )


def lists_for(
    settings: Settings, trials: Sequence[Trial], record: Record, resources: Resources, progress: Progress
) -> str:
    """Where the lists are that serve every trial: the run's own, or the sweep's, which are mined if they are not there.

    A killed search goes on where it was.
    """
    store, rows = record.store, FeatureRows.training(record.store)
    limits = needed(trials, len(rows))
    told = ", ".join(f"{name} = {value}" for name, value in limits.items())
    own = store.marker("neighbors")
    if own is not None and settings.neighbors.mode != "ground_truth" and serves(own.summary, limits):
        progress.log(f"the run's own neighbours serve all {len(trials)} trials ({told})")
        return store.root
    place = Store(record.root)
    if place.marker("neighbors") is not None:
        progress.log(f"mined before, for all {len(trials)} trials ({told})")
        return place.root
    progress.log(f"mining once for all {len(trials)} trials: {told}")
    wide = settings.neighbors.model_copy(update={"mode": "adaptive", "labels": None} | limits)
    wide = settings.model_copy(update={"neighbors": wide})
    started = time.monotonic()
    files, summary = neighbors.run(wide, place, resources, progress, rows=rows)
    place.commit(
        "neighbors",
        files,
        fingerprint=fingerprint(wide, "neighbors"),
        summary=summary,
        seconds=time.monotonic() - started,
    )
    return place.root


def load_shared(store: Store, sweep: Sweep, lists_root: str, device: str, threads: int) -> Shared:
    """References to the arrays; the tasks that load them run again if a node is lost with its copy.

    Raises RunError where the labels know no image, before any trial.
    """
    rows = FeatureRows.training(store)
    truth = None if sweep.labels is None else _truth.remote(rows, sweep.labels)
    if truth is not None and not ray.get(_known.remote(truth)):
        raise RunError(
            f"{sweep.labels} has labels of none of the {len(rows)} images of {rows.root}; check its uri column"
        )
    return Shared(
        rows=rows,
        features=_features.remote(rows),
        lists=_lists.remote(lists_root, rows),
        truth=truth,
        nearest=graph_width(len(rows)),
        device=device,
        threads=threads,
        classifier=sweep.with_classifier,
    )


@ray.remote(num_cpus=0.5)
def _features(rows: FeatureRows) -> np.ndarray:
    return np.ascontiguousarray(rows.features())


@ray.remote(num_cpus=0.5)
def _lists(root: str, rows: FeatureRows) -> tuple[np.ndarray, ...]:
    lists = neighbors.load(root, rows, similarities=True)
    return tuple(tensor.numpy() for tensor in (lists.offsets, lists.ids, lists.similarities))


@ray.remote(num_cpus=0.5)
def _truth(rows: FeatureRows, location: str) -> np.ndarray:
    """Class of every row, int64, -1 where the file has none."""
    return labels_for(read_truth(location), rows.table(0, len(rows), ["image_id", "uri", "key"]))


@ray.remote(num_cpus=0.25)
def _known(truth: np.ndarray) -> int:
    return int((truth >= 0).sum())
