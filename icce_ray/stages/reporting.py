"""Progress of work in one remote process, by a small actor that it tells and the driver asks; alarms as lines."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError

from icce_ray.adapters.progress import StageProgress
from icce_ray.core.alarms import Alarm

POLL_SECONDS = 0.5
#: Reports that wait for the driver; of more, the oldest are lost.
MOST_WAITING = 10_000


@dataclass(frozen=True)
class Report:
    """How far the process is: units done in all, those of them an earlier process did, facts to show."""

    done: int
    earlier: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@ray.remote(num_cpus=0, max_restarts=-1)
class Board:
    """Holds reports until they are read; those that wait are lost with its process."""

    def __init__(self) -> None:
        self.waiting: deque[Report] = deque(maxlen=MOST_WAITING)

    def post(self, report: Report) -> None:
        """Add a report."""
        self.waiting.append(report)

    def settle(self) -> None:
        """Nothing: calls of one process are done in their order, so its reports are there once this one is."""

    def read(self) -> list[Report]:
        """The reports since the last reading, in their order."""
        reports = list(self.waiting)
        self.waiting.clear()
        return reports


def loss_figures(temi: NDArray[np.floating], cross_entropy: NDArray[np.floating]) -> dict[str, float]:
    """What is shown and tracked of an epoch's losses float32[H]: their mean, the best and the worst head's."""
    return {
        "mean_loss": float(temi.mean()),
        "best_loss": float(temi.min()),
        "worst_loss": float(temi.max()),
        "cross_entropy": float(cross_entropy.mean()),
    }


def sounded(alarms: Sequence[Alarm], progress: StageProgress) -> list[dict[str, Any]]:
    """Show each alarm as a line of its own; returns them as `metrics.json` keeps them."""
    for alarm in alarms:
        progress.say(f"WARNING: {alarm.text}")
    return [alarm.as_dict() for alarm in alarms]


def settled(board: Any) -> None:
    """Wait in the remote process until all that it has posted can be read; a board that was lost has nothing more."""
    with suppress(RayActorError):
        ray.get(board.settle.remote())


@contextmanager
def relayed(progress: StageProgress, total: int, *, unit: str) -> Iterator[Any]:
    """A board to hand to the remote process; what is posted there is shown here until the block ends."""
    board: Any = Board.remote()
    stop = threading.Event()
    begun = False
    faults: list[Exception] = []

    def show() -> None:
        nonlocal begun
        try:
            reports: list[Report] = ray.get(board.read.remote())
        except RayActorError:  # its process was lost and is being replaced: the work itself goes on
            return
        for report in reports:
            if not begun:
                progress.begin(total, done=report.earlier, unit=unit)
                begun = True
            progress.update(report.done, **report.facts)

    def relay() -> None:
        try:
            while not stop.wait(POLL_SECONDS):
                show()
        except Exception as fault:  # noqa: BLE001 - raised at the end of the block, where somebody sees it
            faults.append(fault)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield board
        stop.set()
        thread.join()
        for fault in faults:
            raise fault
        show()  # the last reports, which the thread may have missed
    finally:
        stop.set()
        thread.join()
        ray.kill(board)
