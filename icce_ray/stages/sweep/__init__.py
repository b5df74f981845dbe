"""Stage `sweep`: many trials of the stages after `embed`, over one embedding and one search for neighbours.

A trial trains with the code, the features and the seed that a run with its settings would have, and ends as figures:
how the heads and their consensus did, by labels if there are any, else by `core.selection`. `search` runs them on Ray
Tune, `record` keeps what ended, `results` makes the table and the plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from icce_ray.progress import Progress
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import known
from icce_ray.stages.sweep.record import Record
from icce_ray.stages.sweep.results import write_results
from icce_ray.stages.sweep.search import Crew, run_trials
from icce_ray.stages.sweep.shared import lists_for, load_shared
from icce_ray.store import RunError, Store

__all__ = ["Record", "check", "known", "lists_for", "run"]


def check(store: Store, trials: Sequence[Trial]) -> None:
    """Raise RunError where it can be known before any work that a trial cannot be."""
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


def run(
    sweep: Sweep,
    trials: Sequence[Trial],
    record: Record,
    lists_root: str,
    resources: Resources,
    progress: Progress,
    check_lock: Callable[[], None],
    *,
    at_once: int | None = None,
) -> pa.Table:
    """Run the trials that have not ended on the neighbours of `lists_root`; the table of all, as `results.parquet`."""
    finished: dict[str, Any] = record.finished(trials)
    missing = len(trials) - len(finished)
    if missing:
        crew = Crew.of(resources, missing, at_once)
        progress.log(f"{missing} trials, {crew.at_once} at a time with {crew.threads} threads each")
        shared = load_shared(record.store, sweep, lists_root, resources.device, crew.threads)
        finished = run_trials(trials, sweep, shared, record, progress, check_lock, crew=crew)
    check_lock()
    return write_results(record, sweep, trials, finished)
