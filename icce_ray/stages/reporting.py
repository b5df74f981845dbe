"""Progress of work in one remote process, by a small actor that it tells and the driver asks; alarms as lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from icce_ray.adapters.progress import StageProgress
from icce_ray.core.alarms import Alarm

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Report:
    """How far the process is: units done in all, those of them an earlier process did, facts to show."""

    done: int
    earlier: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@ray.remote(num_cpus=0, max_restarts=-1)
class Board:
    """Holds the last report; after its process was lost, none until the next one is posted."""

    def __init__(self) -> None:
        self.last: Report | None = None

    def post(self, report: Report) -> None:
        """Replace the last report."""
        self.last = report

    def read(self) -> Report | None:
        """The last report."""
        return self.last


def sounded(alarms: Sequence[Alarm], progress: StageProgress) -> list[dict[str, Any]]:
    """Show each alarm as a line of its own; returns them as `metrics.json` keeps them."""
    for alarm in alarms:
        progress.say(f"WARNING: {alarm.text}")
    return [alarm.as_dict() for alarm in alarms]


@contextmanager
def relayed(progress: StageProgress, total: int, *, unit: str) -> Iterator[Any]:
    """A board to hand to the remote process; what is posted there is shown here until the block ends."""
    board: Any = Board.remote()
    stop = threading.Event()
    begun = False

    def show() -> None:
        nonlocal begun
        try:
            last: Report | None = ray.get(board.read.remote())
        except RayActorError:  # its process was lost and is being replaced: the work itself goes on
            return
        if last is None:
            return
        if not begun:
            progress.begin(total, done=last.earlier, unit=unit)
            begun = True
        progress.update(last.done, **last.facts)

    def relay() -> None:
        while not stop.wait(POLL_SECONDS):
            show()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield board
        stop.set()
        thread.join()
        show()  # the last report, which the thread may have missed
    finally:
        stop.set()
        thread.join()
        ray.kill(board)
