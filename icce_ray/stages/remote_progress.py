"""Progress of work in a remote process: it reports to an actor, which the driver reads; and alarms as log lines."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError

from icce_ray.core.alarms import Alarm
from icce_ray.progress import Progress

POLL_SECONDS = 0.5
#: Reports that wait for the driver; of more, the oldest are lost.
MOST_WAITING = 10_000


@dataclass(frozen=True)
class Report:
    """How far the process is: units done in all, those of them an earlier process did, facts to show."""

    done: int
    earlier: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    warning: str = ""
    """Shown once, however many processes report it."""


@ray.remote(num_cpus=0, max_restarts=-1)
class ProgressActor:
    """Holds reports until they are read; those that wait, and what it knows of workers, are lost with its process."""

    def __init__(self) -> None:
        self.waiting: deque[Report] = deque(maxlen=MOST_WAITING)
        self.furthest, self.nodes = 0, set[str]()

    def report(self, report: Report) -> None:
        """Add a report."""
        self.waiting.append(report)
        self.furthest = max(self.furthest, report.done)

    def join(self, node: str) -> None:
        """A process begins its work on the node of this id."""
        self.nodes.add(node)

    def survey(self) -> tuple[int, set[str]]:
        """The most that any process has done, and the nodes on which processes began."""
        return self.furthest, self.nodes

    def flush(self) -> None:
        """Do nothing: calls of one process run in order, so its reports are there once this call is done."""

    def read(self) -> list[Report]:
        """The reports since the last reading, in their order."""
        reports = list(self.waiting)
        self.waiting.clear()
        return reports


def flush(actor: Any) -> None:
    """Wait in the remote process until all its reports can be read; an actor that was lost has nothing more."""
    with suppress(RayActorError):
        ray.get(actor.flush.remote())


@contextmanager
def remote_progress(progress: Progress, total: int, *, unit: str) -> Iterator[Any]:
    """A ProgressActor for the remote process; what it reports there is shown here until the block ends."""
    actor: Any = ProgressActor.remote()
    stop, begun, warned = threading.Event(), False, set[str]()

    def show() -> None:
        nonlocal begun
        reports: list[Report] = []
        with suppress(RayActorError):  # its process was lost and is being replaced: the work itself goes on
            reports = ray.get(actor.read.remote())
        for report in reports:
            if report.warning:
                if report.warning not in warned:
                    progress.log(f"WARNING: {report.warning}")
                    warned.add(report.warning)
                continue
            if not begun:
                progress.begin(total, done=report.earlier, unit=unit)
                begun = True
            progress.update(report.done, **report.facts)

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            show()

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            yield actor
            stop.set()
            polling.result()  # raises what it failed with
            show()  # the last reports, which the thread may have missed
        finally:
            stop.set()
            wait([polling])
            ray.kill(actor)


def loss_figures(temi: NDArray[np.floating], cross_entropy: NDArray[np.floating]) -> dict[str, float]:
    """What is shown and tracked of an epoch's losses float32[H]: their mean, the best and the worst head's."""
    return {
        "mean_loss": float(temi.mean()),
        "best_loss": float(temi.min()),
        "worst_loss": float(temi.max()),
        "cross_entropy": float(cross_entropy.mean()),
    }


def log_alarms(alarms: Sequence[Alarm], progress: Progress) -> list[dict[str, Any]]:
    """Log each alarm as a line of its own; returns them as `metrics.json` keeps them."""
    for alarm in alarms:
        progress.log(f"WARNING: {alarm.text}")
    return [alarm.as_dict() for alarm in alarms]
