"""Stage `sweep`: many trials of the stages after `embed`, over one embedding and one search for neighbours.

A trial trains with the code, the features and the seed that a run with its settings would have, and ends as figures:
how good the heads and their consensus are, by labels if there are any, else by `core.selection`. `search` runs trials
on Ray Tune, `records` keeps those that have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.neighbors import Limits
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sweep.records import SweepRecords
from icce_ray.stages.sweep.search import Recorder, allocation, run_trials
from icce_ray.stages.sweep.trial import Shared, graph_width
from icce_ray.stages.truth import labels_for, read_truth
from icce_ray.store import RunError, Store, fingerprint

__all__ = ["SweepRecords", "check", "mine", "run"]


def check(store: Store, trials: Sequence[Trial]) -> None:
    """Raise RunError before any work if the run is not embedded, or has too few images or no number for a trial."""
    store.require("embed")
    store.require("sample")
    images = len(FeatureRows.training(store))
    for trial in trials:
        if trial.settings.count_unknown:
            raise RunError(
                "clusters = auto: a sweep compares numbers; complete the stage neighbors, whose number is then taken, "
                "or add --param clusters=10:90:20"
            )
        if trial.settings.clusters > images:
            raise RunError(f"trial {trial}: {trial.settings.clusters} clusters of {images} images; ask for fewer")


def mine(
    settings: Settings, trials: Sequence[Trial], records: SweepRecords, resources: Resources, progress: Progress
) -> str:
    """Root of neighbour lists that serve every trial: the run's own, or the sweep's, which are mined if missing."""
    store, rows = records.store, FeatureRows.training(records.store)
    limits = widest(trials, len(rows))
    text = ", ".join(f"{name} = {value}" for name, value in asdict(limits).items())
    own = store.marker("neighbors")
    if own is not None and settings.neighbors.mode != "ground_truth" and Limits.of_summary(own.summary).covers(limits):
        progress.log(f"the run's own neighbours serve all {len(trials)} trials ({text})")
        return store.root
    place = Store(records.root)
    if place.marker("neighbors") is not None:
        progress.log(f"mined before, for all {len(trials)} trials ({text})")
        return place.root
    progress.log(f"mining once for all {len(trials)} trials: {text}")
    wide = settings.neighbors.model_copy(update={"mode": "adaptive", "labels": None} | asdict(limits))
    wide = settings.model_copy(update={"neighbors": wide})
    started = time.monotonic()
    files, summary = neighbors.run(wide, place, resources, progress, rows=rows)
    digest, seconds = fingerprint(wide, "neighbors"), time.monotonic() - started
    place.commit("neighbors", files, fingerprint=digest, summary=summary, seconds=seconds)
    return place.root


def widest(trials: Sequence[Trial], n_images: int) -> Limits:
    """Limits whose lists hold those of every trial, and the objective's graph."""
    limits = [neighbors.limits_of(trial.settings, n_images) for trial in trials]
    k_min = max(graph_width(n_images), *(one.k_min for one in limits))
    return Limits(min(one.threshold for one in limits), k_min, max(k_min, *(one.k_max for one in limits)))


def run(
    sweep: Sweep,
    trials: Sequence[Trial],
    records: SweepRecords,
    lists_root: str,
    resources: Resources,
    progress: Progress,
    check_lock: Callable[[], None],
    *,
    at_once: int | None = None,
) -> pa.Table:
    """Run the trials that have not ended on the neighbours of `lists_root`; the table of all, as `results.parquet`.

    Raises RunError where the labels are of no image, before any trial, and where trials were lost for good.
    """
    ended = records.ended(trials)
    missing = len(trials) - len(ended)
    if missing:
        progress.begin(len(trials), done=len(ended), unit="trials")
        slots, share = allocation(resources, missing, at_once)
        progress.log(f"{missing} trials, {slots} at a time with {share['CPU']:g} threads each")
        rows = FeatureRows.training(records.store)
        references: Any = _load.remote(rows, lists_root, sweep.labels)
        arrays, labelled = references
        if sweep.labels is not None and not ray.get(labelled):
            raise RunError(
                f"{sweep.labels} has labels of none of the {len(rows)} images of {rows.root}; check its uri column"
            )
        shared = Shared(
            rows=rows, arrays=arrays, device=resources.device, threads=int(share["CPU"]), classifier=sweep.classifier
        )
        run_trials(sweep, shared, Recorder(trials, ended, records, progress, check_lock), slots, share)
    check_lock()
    return records.write_results(sweep, trials)


@ray.remote(num_cpus=0.5, num_returns=2)
def _load(rows: FeatureRows, lists_root: str, labels: str | None) -> tuple[dict[str, np.ndarray], int]:
    """The arrays that trials share, and how many images have a label. Ray runs it again if its node is lost."""
    lists = neighbors.load(lists_root, rows, similarities=True)
    arrays = {name: getattr(lists, name).numpy() for name in ("offsets", "ids", "similarities")}
    arrays["features"] = np.ascontiguousarray(rows.features())
    if labels is not None:
        arrays["truth"] = labels_for(read_truth(labels), rows.table(0, len(rows), ["image_id", "uri", "key"]))
    return arrays, int((arrays["truth"] >= 0).sum()) if "truth" in arrays else 0
