"""What of a run is tracked: its stages' reports while they work, the losses of every epoch, the figures at their ends.

Everything comes from what stages report or have written anyway; nothing is asked of those who work.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from icce_ray.adapters.tracking import StepLog, Tracker, TrackingError, make_sink, missing_packages, read_lines, scalars
from icce_ray.progress import Progress, RunProgress
from icce_ray.settings import Settings, SettingsError
from icce_ray.stages.remote_progress import loss_figures
from icce_ray.store import Marker, RunError, Store
from icce_ray.store.artifacts import HEAD_LOSSES, METRIC_LINES, STAGES, TENSORBOARD

EVALUATION = "evaluation"
#: Of summaries: what describes, and is no figure.
_NO_FIGURES = ("layout", "first_rejects")


def check_trackers(settings: Settings) -> None:
    """Raise SettingsError if a tracker that is asked for is not installed."""
    missing = missing_packages(settings.tracking.to)
    if missing:
        raise SettingsError(
            f"tracking.to = {', '.join(settings.tracking.to)}: {', '.join(missing)} is not installed; "
            f"pip install 'icce-ray[{','.join(missing)}]', or leave it out"
        )


class TrackedRun:
    """The stages of a run as `display` shows them, tracked too."""

    def __init__(self, store: Store, tracker: Tracker, display: RunProgress) -> None:
        self.store, self.tracker, self.display = store, tracker, display

    @contextmanager
    def stage(self, stage: str) -> Iterator[Progress]:
        """A stage's progress; once its marker stands, its figures are told."""
        with self.display.stage(stage) as progress:
            yield StepLog(stage, progress, self.tracker)
        self.log_complete(stage)

    def log_complete(self, stage: str) -> None:
        """The figures of a stage that is complete, unless they were told."""
        if stage not in STAGES or self.tracker.told(stage, "summary"):
            return
        marker = self.store.marker(stage)
        if marker is None:
            return
        if stage == "heads":
            self._log_epochs(_moment(marker))
        kept = {name: value for name, value in marker.summary.items() if name not in _NO_FIGURES}
        figures = scalars(kept | {"seconds": marker.seconds})
        self.tracker.summary(stage, figures, at=_moment(marker))

    def log_evaluation(self, figures: Mapping[str, Any]) -> None:
        """The scores against true labels, unless they are those of last time; earlier others stay, a step before."""
        scores = scalars({name: value for name, value in figures.items() if isinstance(value, Mapping)})
        before = self.tracker.last(EVALUATION, "summary")
        if before is None or before.figures != scores:
            self.tracker.summary(EVALUATION, scores, step=0 if before is None else before.step + 1)

    def _log_epochs(self, moment: float) -> None:
        """Epochs of which no report came: their board was lost, or the driver was."""
        losses = self.store.storage.read_table(HEAD_LOSSES.path)
        epochs = int(losses["epoch"].to_numpy().max()) + 1
        temi, cross_entropy = (losses[name].to_numpy().reshape(epochs, -1) for name in ("temi", "cross_entropy"))
        for epoch in range(epochs):
            if not self.tracker.told("heads", "step", epoch + 1):
                self.tracker.step("heads", epoch + 1, loss_figures(temi[epoch], cross_entropy[epoch]), at=moment)


@contextmanager
def tracked(
    settings: Settings,
    store: Store,
    display: RunProgress,
    *,
    check: Callable[[], None],
    redo: str | None = None,
    folder: str = "",
) -> Iterator[TrackedRun]:
    """Track the run while the block works, with `redo` as in `Store.claim`.

    `check` raises RunError once this process may not write. `folder` of the run is for the files of what is a part of
    it only. Raises RunError for a tracker that cannot be told.
    """
    prefix = f"{folder}/" if folder else ""
    experiment, events = settings.tracking.experiment, f"{prefix}{TENSORBOARD}"
    sinks = {
        name: make_sink(name, storage=store.storage, folder=events, experiment=experiment)
        for name in settings.tracking.to
    }
    tracker = Tracker(
        store.storage,
        f"{prefix}{METRIC_LINES}",
        sinks,
        name=f"{store.root.rstrip('/').rpartition('/')[2]}{'/' if folder else ''}{folder}",
        params=_flat(settings.model_dump(mode="json")),
        forget=[] if folder else _done_again(store, redo),
        may_write=lambda: _passes(check),
        say=display.log_as("tracking"),
    )
    with _as_run_errors(), tracker:
        found = TrackedRun(store, tracker, display)
        if not folder:
            for stage in STAGES:
                found.log_complete(stage)
        yield found


@contextmanager
def _as_run_errors() -> Iterator[None]:
    try:
        yield
    except TrackingError as error:
        raise RunError(str(error)) from error


def _done_again(store: Store, redo: str | None) -> list[str]:
    """Stages of which earlier lines are not true any more: they are repeated, or were deleted to be."""
    ended = {line.stage for line in read_lines(store.storage, METRIC_LINES) if line.event == "summary"}
    stages = list(STAGES)
    gone = [stage for stage in stages if stage == redo or (stage in ended and store.marker(stage) is None)]
    return [*stages[stages.index(gone[0]) :], EVALUATION] if gone else []


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except RunError:
        return False
    return True


def _moment(marker: Marker) -> float:
    return datetime.datetime.fromisoformat(marker.finished).timestamp()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
