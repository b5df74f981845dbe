"""A stage's reports on their way to the person, read along for the trackers."""

from __future__ import annotations

import time
from typing import Any

from icce_ray.adapters.tracking.lines import scalars
from icce_ray.adapters.tracking.tracker import Tracker
from icce_ray.progress import Progress

#: Lines of a stage at most: of more units of work they are evenly spread.
MOST_STEPS = 2000


class StepLog(Progress):
    """The progress of a stage, which a tracker is told too: each unit done, its facts and its rate."""

    def __init__(self, stage: str, progress: Progress, tracker: Tracker) -> None:
        self.stage, self.progress, self.tracker = stage, progress, tracker
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
        self.tracker.step(self.stage, done, scalars(facts) | {f"{self._unit}_per_second": rate})

    def log(self, text: str) -> None:
        """One line of text."""
        self.progress.log(text)

    def _part_of(self, done: int) -> int:
        return done if self._total <= MOST_STEPS else done * MOST_STEPS // self._total
