"""Trials on Ray Tune: which run when and where, and which are stopped early (ASHA, Li et al., MLSys 2020).

Tune schedules; it draws nothing and keeps nothing. Trials are known before it starts, and each that ends is written by
the driver from its reports.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icce_ray.progress import Progress
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages.cluster import Resources
from icce_ray.stages.sweep.record import Finished, Record
from icce_ray.stages.sweep.trial import Shared, TrialRun, ended
from icce_ray.store import RunError

#: Of the trials at a rung of `asha`, one in so many goes on; rungs are this far apart.
REDUCTION = 3
#: Times a trial starts again after its process or node was lost.
RETRIES = 3
#: Tune's loggers write files, its signal handler keeps Ctrl-C and lost locks from ending the driver, its banner talks.
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def rungs(trial: Trial, sweep: Sweep) -> list[int]:
    """Epochs before the last at which a trial reports its score: where `asha` may stop it."""
    heads = trial.settings.heads
    grace = sweep.grace or max(1, heads.warmup_epochs, -(-heads.epochs // REDUCTION**2))
    found, epoch = [], grace
    while epoch < heads.epochs:
        found.append(epoch)
        epoch *= REDUCTION
    return found


@dataclass(frozen=True)
class Crew:
    """How many trials work at a time, and what each may use."""

    at_once: int
    threads: int
    share: dict[str, float]

    @classmethod
    def of(cls, resources: Resources, trials: int, at_once: int | None = None) -> Crew:
        """By default one trial a GPU, or one a CPU; more than there are GPUs share them."""
        cpus = resources.nodes * resources.cores
        slots = resources.gpus if resources.device == "cuda" else cpus
        count = max(1, min(at_once or slots, trials))
        threads = min(resources.cores, max(1, cpus // count))
        share = {"CPU": float(threads)}
        if resources.device == "cuda":
            share["GPU"] = min(1.0, resources.gpus / count)
        return cls(count, threads, share)


@dataclass(frozen=True)
class Work:
    """What a trial's process is given beside its number."""

    trials: Sequence[Trial]
    rungs: Sequence[list[int]]
    checkpoints: Sequence[str]
    shared: Shared
    finished: dict[str, Finished]


def run_trials(
    trials: Sequence[Trial],
    sweep: Sweep,
    shared: Shared,
    record: Record,
    progress: Progress,
    check: Callable[[], None],
    *,
    crew: Crew,
) -> dict[str, Finished]:
    """Run every trial that has not ended; all that have, by digest. `check` raises when this process may not write.

    Raises RunError if trials were lost more than a few times; the others are kept.
    """
    from ray import tune  # a second that nobody else should pay

    from icce_ray.stages.sweep.keeper import Keeper

    finished = record.finished(trials)
    progress.begin(len(trials), done=len(finished), unit="trials")
    left = [trial for trial in trials if trial.digest not in finished]
    if not left:
        return finished
    # `asha` compares with trials that ended before: they report again what they did, first, and take no time.
    replayed = [trial for trial in trials if trial.digest in finished] if sweep.search == "asha" else []
    work = Work(
        trials,
        [rungs(trial, sweep) for trial in trials],
        [record.checkpoint(t.digest) for t in trials],
        shared,
        finished,
    )
    keeper = Keeper(trials, finished, record, progress, check)
    with _quiet(), tempfile.TemporaryDirectory(prefix="icce-tune-", ignore_cleanup_errors=True) as notes:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, work=work), crew.share),
            param_space={"index": tune.grid_search([trial.index for trial in [*replayed, *left]])},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(work, sweep), max_concurrent_trials=crew.at_once, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=notes,
                verbose=0,
                callbacks=[keeper],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        try:
            results = tuner.fit()
        except tune.TuneError:
            if keeper.fault is not None:  # Tune turns what a callback raises into text
                raise keeper.fault from None
            raise
    if results.num_errors:
        raise RunError(
            f"{results.num_errors} of {len(trials)} trials were lost ({_last_line(results.errors[0])}); the others are "
            "kept: give the same command again for those"
        )
    return record.finished(trials)


def _trial(config: dict[str, Any], work: Work) -> None:
    """Tune's function: one trial, or the replay of one that has ended."""
    from ray import tune

    # So long may the thread of a trial that Tune stops take to end before its process is reused; else a trial is lost.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    index: int = config["index"]
    trial = work.trials[index]
    before = work.finished.get(trial.digest)
    if before is not None:
        for rung in before.rungs:
            tune.report(rung)
        tune.report({"epoch": trial.settings.heads.epochs, "score": _number(before.score), "state": "replayed"})
        return

    def at_work() -> dict[str, Any]:
        return TrialRun(trial, work.shared, work.rungs[index], work.checkpoints[index], tune.report).run()

    state, figures, seconds = ended(at_work)
    score = _number(figures.get("objective"))
    last = {"epoch": trial.settings.heads.epochs, "score": score, "mean_loss": math.nan}
    tune.report(last | {"state": state, "figures": figures, "seconds": seconds})


def _number(score: float | None) -> float:
    """Tune wants a number of every trial; one that failed has none."""
    return math.nan if score is None else score


def _scheduler(work: Work, sweep: Sweep) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if sweep.search != "asha":
        return FIFOScheduler()
    first = min((found[0] for found in work.rungs if found), default=1)
    return ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode="max",
        grace_period=first,
        reduction_factor=REDUCTION,
        # One more than the last report, which is of the end and stops nothing.
        max_t=max(trial.settings.heads.epochs for trial in work.trials) + 1,
        stop_last_trials=False,
    )


def _last_line(error: Any) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune reads these from the environment of the driver."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
