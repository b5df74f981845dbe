"""Trials on Ray Tune: which run when and where, and which are stopped early (ASHA, Li et al., MLSys 2020).

Tune schedules trials, restarts those whose process was lost and stops the hopeless. Their settings are drawn before it
starts, so that all are checked before any work, and the driver writes the record of each that ends.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from icce_ray.core.consensus import ConsensusSizeError
from icce_ray.progress import Progress
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages.cluster import Resources
from icce_ray.stages.sweep.records import SweepRecords, TrialRecord
from icce_ray.stages.sweep.trial import Diverged, Shared, TrialRun
from icce_ray.store import RunError, Store

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
        trials: Sequence[Trial],
        ended: dict[str, TrialRecord],
        records: SweepRecords,
        progress: Progress,
        check_lock: Callable[[], None],
    ) -> None:
        self.trials, self.ended, self.records = trials, ended, records
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


def run_trials(sweep: Sweep, shared: Shared, recorder: Recorder, slots: int, share: dict[str, float]) -> None:
    """Run every trial that has not ended. Raises RunError if some were lost for good; the others are kept."""
    trials, ended = recorder.trials, recorder.ended
    asha = _asha(sweep, trials) if sweep.search == "asha" else None
    # `asha` compares with trials that ended before: they report again what they did, first, and take no time.
    replayed = [trial.index for trial in trials if trial.digest in ended] if asha else []
    missing = [trial.index for trial in trials if trial.digest not in ended]
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="icce-tune-", ignore_cleanup_errors=True) as folder:
        trainable = tune.with_parameters(
            _run, sweep=sweep, trials=trials, ended=ended, shared=shared, name=recorder.records.name
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
    name: str,
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
    checkpoint = SweepRecords(Store(shared.rows.root), name).checkpoint(trial.digest)
    work = TrialRun(trial, shared, rungs(trial, sweep), checkpoint, tune.report)
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
