"""What the driver hears of trials, from Ray Tune, and the file it writes of each that ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ray.tune import Callback

from icce_ray.progress import Progress
from icce_ray.settings.sweep import Trial
from icce_ray.stages.sweep.record import Finished, Record, Rung


class Keeper(Callback):
    """Holds the reports of trials that run, a few numbers each, and writes those of trials that end.

    What it raises Tune turns into text; the exception itself is in `fault`.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        before: dict[str, Finished],
        record: Record,
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self.trials, self.before, self.record, self.progress, self.check = trials, before, record, progress, check
        self.fault: Exception | None = None
        self.done = len(before)
        self.reports: dict[int, dict[int, dict[str, Any]]] = {}
        self.last: dict[int, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps copies of its callbacks on disk, which nobody reads."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A report: of a rung, or of the end."""
        index = trial.config["index"]
        if "state" in result:
            self.last[index] = result
            return
        rung = {name: result[name] for name in ("epoch", "score", "mean_loss")}
        self.reports.setdefault(index, {})[rung["epoch"]] = rung  # a trial that starts again reports again
        self.progress.update(self.done, trial=index + 1, epoch=rung["epoch"], score=rung["score"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has ended by itself, or was stopped."""
        try:
            self._end(trial.config["index"])
        except Exception as fault:
            self.fault = fault
            raise

    def _end(self, index: int) -> None:
        point, last = self.trials[index], self.last.pop(index, {})
        reports = self.reports.pop(index, {})
        if point.digest in self.before:
            return
        self.check()
        one = Finished(
            digest=point.digest,
            params=point.params,
            state=last.get("state", "stopped"),
            rungs=[cast(Rung, reports[epoch]) for epoch in sorted(reports)],
            figures=last.get("figures", {}),
            seconds=last.get("seconds", 0.0),
        )
        self.record.keep(one)
        self.done += 1
        self.progress.log(f"trial {index + 1} of {len(self.trials)}: {point}: {_told(one)}")
        self.progress.update(self.done, **_facts(one))


def _facts(one: Finished) -> dict[str, Any]:
    """Its settings and its figures, of which numbers are tracked."""
    values = {name.rpartition(".")[2]: value for name, value in one.params.items()}
    return values | {"score": one.score if one.score is not None else "none", "seconds": one.seconds}


def _told(one: Finished) -> str:
    if one.state == "failed":
        return f"failed: {one.figures['reason']}"
    score = f"{one.score:.4f}" if one.score is not None else "none"
    if one.state == "stopped":
        return f"stopped at epoch {one.rungs[-1]['epoch']}, {score} there"
    return f"objective {score}, {one.seconds:.1f} s"
