"""What of a run is tracked: reports of its stages, the losses of every epoch, the figures at their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from icce_ray.progress import Progress, RunProgress
from icce_ray.settings import Settings, SettingsError
from icce_ray.stages.remote_progress import loss_figures
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import HEAD_LOSSES, METRIC_LINES, STAGES, TENSORBOARD
from icce_ray.trackers import make_tracker, missing_packages
from icce_ray.tracking import EventLog, TrackingError, read_events, scalars

EVALUATION = "evaluation"
#: Parts of a stage's summary that describe it and are no figures.
_NO_FIGURES = ("layout", "first_rejects")
#: Steps of a stage at most: of more units of work they are evenly spread.
MOST_STEPS = 2000


def check_trackers(settings: Settings) -> None:
    """Raise SettingsError if a tracker that is asked for is not installed."""
    missing = missing_packages(settings.tracking.to)
    if missing:
        raise SettingsError(
            f"tracking.to = {', '.join(settings.tracking.to)}: {', '.join(missing)} is not installed; "
            f"pip install 'icce-ray[{','.join(missing)}]', or leave it out"
        )


class StepLog(Progress):
    """The progress of a stage, whose units done, facts and rate are logged too."""

    def __init__(self, stage: str, progress: Progress, events: EventLog) -> None:
        self.stage, self.progress, self.events = stage, progress, events
        self._total, self._first, self._unit, self._part = 0, 0, "", 0
        self._began = time.monotonic()

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units starts, `done` of them left by an earlier run."""
        self._total, self._first, self._unit, self._began = total, done, unit, time.monotonic()
        self._part = self._part_of(done)
        self.progress.begin(total, done=done, unit=unit)

    def update(self, done: int, **facts: Any) -> None:
        """`done` units in all are finished."""
        self.progress.update(done, **facts)
        part = self._part_of(done)
        if part <= self._part:
            return
        self._part = part
        rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
        self.events.add(self.stage, "step", done, scalars(facts) | {f"{self._unit}_per_second": rate})

    def log(self, text: str) -> None:
        """One line of text."""
        self.progress.log(text)

    def _part_of(self, done: int) -> int:
        return done if self._total <= MOST_STEPS else done * MOST_STEPS // self._total


class TrackedRun:
    """The stages of a run as `display` shows them, tracked too, from what they report or have written."""

    def __init__(self, store: Store, events: EventLog, display: RunProgress) -> None:
        self.store, self.events, self.display = store, events, display

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """A stage's progress; once its marker stands, its figures are logged."""
        with self.display.stage(name) as progress:
            yield StepLog(name, progress, self.events)
        self.log_complete(name)

    def log_complete(self, stage: str) -> None:
        """The figures of a stage that is complete, unless they are there."""
        marker = self.store.marker(stage) if stage in STAGES else None
        if marker is None or self.events.last(stage, "summary"):
            return
        at = datetime.fromisoformat(marker.finished)
        if stage == "heads":
            self._log_epochs(at)
        figures = {name: value for name, value in marker.summary.items() if name not in _NO_FIGURES}
        self.events.add(stage, "summary", 0, scalars(figures | {"seconds": marker.seconds}), at=at)

    def log_evaluation(self, figures: Mapping[str, Any]) -> None:
        """The scores against true labels, unless they are those of last time; earlier others stay, a step before."""
        scores = scalars({name: value for name, value in figures.items() if isinstance(value, Mapping)})
        before = self.events.last(EVALUATION, "summary")
        if before is None or before.figures != scores:
            self.events.add(EVALUATION, "summary", 0 if before is None else before.step + 1, scores)

    def _log_epochs(self, at: datetime) -> None:
        """Epochs of which no report came: the actor that had them was lost, or the driver was."""
        losses = self.store.storage.read_table(HEAD_LOSSES.path)
        epochs = int(losses["epoch"].to_numpy().max()) + 1
        temi, cross_entropy = (losses[name].to_numpy().reshape(epochs, -1) for name in ("temi", "cross_entropy"))
        # Of several feature spaces one after the other, as they are trained.
        spans = self.store.require("heads").summary.get("head_spaces", {"": [0, temi.shape[1]]}).values()
        for number, span in enumerate(spans):
            heads = slice(*span)
            for epoch in range(epochs):
                figures = loss_figures(temi[epoch, heads], cross_entropy[epoch, heads])
                self.events.add("heads", "step", number * epochs + epoch + 1, figures, at=at)


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
    it only. Raises RunError for a tracker that cannot be reached.
    """
    prefix = f"{folder}/" if folder else ""
    options = {"storage": store.storage, "folder": f"{prefix}{TENSORBOARD}", "experiment": settings.tracking.experiment}
    events = EventLog(
        store.storage,
        f"{prefix}{METRIC_LINES}",
        {name: make_tracker(name, **options) for name in settings.tracking.to},
        name="/".join([store.root.rstrip("/").rpartition("/")[2], *([folder] if folder else [])]),
        params=_flat(settings.model_dump(mode="json")),
        forget=[] if folder else _done_again(store, redo),
        check=check,
        log=display.log_as("tracking"),
    )
    try:
        with events:
            run = TrackedRun(store, events, display)
            for stage in () if folder else STAGES:
                run.log_complete(stage)
            yield run
    except TrackingError as error:
        raise RunError(str(error)) from error


def _done_again(store: Store, redo: str | None) -> list[str]:
    """Stages of which earlier events are not true any more: they are repeated, or were deleted to be."""
    ended = {one.stage for one in read_events(store.storage, METRIC_LINES) if one.event == "summary"}
    stages = list(STAGES)
    gone = [stage for stage in stages if stage == redo or (stage in ended and store.marker(stage) is None)]
    return [*stages[stages.index(gone[0]) :], EVALUATION] if gone else []


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
