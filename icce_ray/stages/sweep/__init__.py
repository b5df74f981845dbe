"""Stage `sweep`: many trials of the stages after `embed`, over one embedding and one search for neighbours.

A trial trains with the code, the features and the seed that a run with its settings would have, and ends as figures:
how good the heads and their consensus are, by labels if there are any, else by `core.selection`. Ray Tune schedules
the trials, restarts those whose process was lost and stops the hopeless (ASHA, Li et al., MLSys 2020). Their settings
are drawn before it starts, so that all are checked before any work, and the driver writes the record of each that ends.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from icce_ray.core.consensus import ConsensusSizeError
from icce_ray.core.neighbors import Limits
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.settings.choosing import is_resolved
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages import complete, neighbors
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sweep.records import SweepRecords, TrialRecord, checkpoint_path
from icce_ray.stages.sweep.trial import Diverged, Shared, TrialRun, graph_width
from icce_ray.stages.truth import labels_of, read_truth
from icce_ray.store import RunError, Store, fingerprint
from icce_ray.store.views import spaces_of

__all__ = ["SweepRecords", "check", "mine", "run"]

#: Of the trials at a rung of `asha`, one in so many goes on; rungs are this far apart.
REDUCTION = 3
#: How often a trial starts again after its process or node was lost.
RETRIES = 3
#: Turns off the files of Tune's loggers, its banner, and its signal handler, which keeps Ctrl-C from the driver.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def check(store: Store, trials: Sequence[Trial]) -> None:
    """Raise RunError before any work if the run is not embedded, or has too few images or no number for a trial."""
    spaces = spaces_of(store.require("embed").summary)
    if len(spaces) > 1:
        raise RunError(
            f"{store.root} has several feature spaces ({', '.join(spaces)}), but the trials of a sweep work in one; "
            "sweep a run of one of them, or make a run for each value"
        )
    store.require("sample")
    images = len(FeatureRows.training(store))
    for trial in trials:
        if not is_resolved(trial.settings):
            raise RunError(
                f"{store.root} has no neighbours yet, with which the recipe chooses the numbers that nobody gave: "
                "complete the stage first, with `icce run ... --until neighbors`, or give --config paper there"
            )
        if trial.settings.clusters > images:
            raise RunError(f"trial {trial}: {trial.settings.clusters} clusters of {images} images; ask for fewer")


def mine(
    settings: Settings, records: SweepRecords, resources: Resources, progress: Progress, check_lock: Callable[[], None]
) -> str:
    """Root of neighbour lists that serve every trial: the run's own, or the sweep's, which are mined if missing."""
    store, trials, rows = records.store, records.trials, records.inputs()
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
    work = functools.partial(neighbors.run, wide, place, resources, progress, rows)
    complete("neighbors", place, fingerprint(wide, "neighbors"), work, check_lock)
    return place.root


def widest(trials: Sequence[Trial], n_images: int) -> Limits:
    """Limits whose lists hold those of every trial, and the objective's graph."""
    limits = [neighbors.limits_of(trial.settings, n_images) for trial in trials]
    k_min = max(graph_width(n_images), *(one.k_min for one in limits))
    return Limits(min(one.threshold for one in limits), k_min, max(k_min, *(one.k_max for one in limits)))


def run(
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
    sweep, trials, ended = records.sweep, records.trials, records.ended()
    missing = len(trials) - len(ended)
    if missing:
        progress.begin(len(trials), done=len(ended), unit="trials")
        slots, share = allocation(resources, missing, at_once)
        progress.log(f"{missing} trials, {slots} at a time with {share['CPU']:g} threads each")
        rows = records.inputs()
        references: Any = _load.remote(rows, lists_root, sweep.labels)
        arrays, labelled = references
        if sweep.labels is not None and not ray.get(labelled):
            raise RunError(
                f"{sweep.labels} has labels of none of the {len(rows)} images of {rows.root}; check its uri column"
            )
        shared = Shared(
            rows=rows, arrays=arrays, device=resources.device, threads=int(share["CPU"]), classifier=sweep.classifier
        )
        run_trials(shared, Recorder(records, ended, progress, check_lock), slots, share)
    check_lock()
    return records.write_results()


@ray.remote(num_cpus=0.5, num_returns=2)
def _load(rows: FeatureRows, lists_root: str, labels: str | None) -> tuple[dict[str, np.ndarray], int]:
    """The arrays that trials share, and how many images have a label. Ray runs it again if its node is lost."""
    lists = neighbors.load(lists_root, rows, similarities=True)
    arrays = {name: getattr(lists, name).numpy() for name in ("offsets", "ids", "similarities")}
    arrays["features"] = np.ascontiguousarray(rows.features())
    if labels is not None:
        arrays["truth"] = labels_of(read_truth(labels), rows)
    return arrays, int((arrays["truth"] >= 0).sum()) if "truth" in arrays else 0


def allocation(resources: Resources, trials: int, at_once: int | None = None) -> tuple[int, dict[str, float]]:
    """How many trials run at a time, and the share of each: by default a GPU, or a CPU; more than GPUs share them."""
    cpus = resources.nodes * resources.cores
    slots = resources.gpus if resources.device == "cuda" else cpus
    count = max(1, min(at_once or slots, trials))
    share: dict[str, float] = {"CPU": min(resources.cores, max(1, cpus // count))}
    if resources.device == "cuda":
        share["GPU"] = min(1.0, resources.gpus / count)
    return count, share


def rungs(trial: Trial, sweep: Sweep) -> list[int]:
    """Epochs before the last at which a trial reports its score: where `asha` may stop it."""
    heads = trial.settings.heads
    epoch = sweep.grace or max(1, heads.warmup_epochs, -(-heads.epochs // REDUCTION**2))
    epochs = []
    while epoch < heads.epochs:
        epochs.append(epoch)
        epoch *= REDUCTION
    return epochs


class Recorder(tune.Callback):
    """Shows what trials report and writes the record of each that ends."""

    def __init__(
        self,
        records: SweepRecords,
        ended: dict[str, TrialRecord],
        progress: Progress,
        check_lock: Callable[[], None],
    ) -> None:
        self.records, self.trials, self.ended = records, records.trials, ended
        self.progress, self.check_lock = progress, check_lock
        self.done = len(ended)
        self.error: Exception | None = None
        """What `on_trial_complete` raised: Tune turns it into text."""

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks to disk, and nobody reads them there."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Show what a trial reports at a rung."""
        index = trial.config["index"]
        if "state" not in result and self.trials[index].digest not in self.ended:
            self.progress.update(self.done, trial=index + 1, epoch=result["epoch"], score=result["score"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Write the record of a trial that has ended by itself, or was stopped."""
        point = self.trials[trial.config["index"]]
        if point.digest in self.ended:
            return
        try:
            self._write(point, trial.last_result)
        except Exception as error:
            self.error = error
            raise

    def _write(self, trial: Trial, last: dict[str, Any]) -> None:
        self.check_lock()
        record = TrialRecord(
            digest=trial.digest,
            params=trial.params,
            state=last.get("state", "stopped"),
            rungs=last["rungs"],
            figures=last.get("figures", {}),
            seconds=last.get("seconds", 0.0),
        )
        self.records.write(record)
        self.done += 1
        self.progress.log(f"trial {trial.index + 1} of {len(self.trials)}: {trial}: {record}")
        facts = {name.rpartition(".")[2]: value for name, value in trial.params.items()}
        score = "none" if record.score is None else record.score
        self.progress.update(self.done, **facts, score=score, seconds=record.seconds)


def run_trials(shared: Shared, recorder: Recorder, slots: int, share: dict[str, float]) -> None:
    """Run every trial that has not ended. Raises RunError if some were lost for good; the others are kept."""
    sweep, trials, ended = recorder.records.sweep, recorder.trials, recorder.ended
    asha = _asha(sweep, trials) if sweep.search == "asha" else None
    # `asha` compares with trials that ended before: they report again what they did, first, and take no time.
    replayed = [trial.index for trial in trials if trial.digest in ended] if asha else []
    missing = [trial.index for trial in trials if trial.digest not in ended]
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="icce-tune-", ignore_cleanup_errors=True) as folder:
        trainable = tune.with_parameters(
            _run, sweep=sweep, trials=trials, ended=ended, shared=shared, folder=recorder.records.folder
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, share),
            param_space={"index": tune.grid_search(replayed + missing)},
            tune_config=tune.TuneConfig(scheduler=asha, max_concurrent_trials=slots, reuse_actors=True),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                verbose=0,
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        try:
            results = tuner.fit()
        except tune.TuneError:
            if recorder.error is not None:
                raise recorder.error from None
            raise
    if results.num_errors:
        reason = str(results.errors[0]).strip().rpartition("\n")[2]
        raise RunError(
            f"{results.num_errors} of {len(trials)} trials were lost ({reason}); the others are kept: give the same "
            "command again for those"
        )


def _run(
    config: dict[str, Any],
    sweep: Sweep,
    trials: Sequence[Trial],
    ended: dict[str, TrialRecord],
    shared: Shared,
    folder: str,
) -> None:
    """Tune's function: one trial, or the replay of one that has ended."""
    # Seconds that a stopped trial has to end before its process is reused: after too few the next trial would be lost.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    trial = trials[config["index"]]
    epochs, record = trial.settings.heads.epochs, ended.get(trial.digest)
    if record is not None:
        for rung in record.rungs:
            tune.report(dict(rung))
        tune.report({"epoch": epochs, "score": math.nan if record.score is None else record.score})
        return
    started = time.monotonic()
    work = TrialRun(trial, shared, rungs(trial, sweep), checkpoint_path(folder, trial.digest), tune.report)
    try:
        state, figures = "complete", work.run()
    except (Diverged, ConsensusSizeError) as error:  # a result: these settings lead nowhere
        state, figures = "failed", {"reason": str(error)}
    last = {"epoch": epochs, "score": figures.get("objective", math.nan), "rungs": work.rungs}
    tune.report(last | {"state": state, "figures": figures, "seconds": round(time.monotonic() - started, 3)})


def _asha(sweep: Sweep, trials: Sequence[Trial]) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode="max",
        grace_period=min((epochs[0] for trial in trials if (epochs := rungs(trial, sweep))), default=1),
        reduction_factor=REDUCTION,
        # One more than the last report, which is of the end and stops nothing.
        max_t=max(trial.settings.heads.epochs for trial in trials) + 1,
        stop_last_trials=False,
    )
