"""A training on Ray Train that goes on with the workers there are, and takes in those that come.

Each attempt is a `fit` of a fixed number of workers; after a failure, and when one returns `Grow`, the number is found
anew. Ray Train's own elastic scaling ends workers in the middle of an epoch to take in others, and after the death of a
driver waits up to three minutes for what that one had reserved; its retries count a lost node and a failing program
alike, unless the cloud announced the loss.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from icce_ray.stages.cluster import Log, others_cluster
from icce_ray.stages.connection import kept_handler
from icce_ray.store import RunError

#: So many failures end a training, of those in which no epoch was gained and no node of its workers was lost.
MOST_FAILURES = 3
#: After a failure the number of workers is that for which there is room, and to which none was added for so long.
SETTLE_SECONDS = 5.0
#: So long a cluster may take to give back what failed workers had, also where it does not grow.
LEAST_WAIT_MINUTES = 1.0
POLL_SECONDS = 0.2
#: Seconds that an interrupted driver waits until the workers have ended.
ABORT_SECONDS = 10.0


@dataclass(frozen=True)
class Grow:
    """What an attempt returns that ended, after a checkpoint, because there is room for more workers."""

    most: int
    """How many workers there may be."""


@dataclass(frozen=True)
class Worker:
    """What one worker takes of a node, and how long the training waits for the first of them."""

    kind: str
    """`GPU` or `CPU`, for which the training waits."""
    wait_minutes: float

    @property
    def bundle(self) -> dict[str, float]:
        """Its resources, as Ray writes them."""
        return {"CPU": 1.0} | ({"GPU": 1.0} if self.kind == "GPU" else {})


class Places:
    """Room for `count` workers: asked for one by one, so that the autoscaler sees each, and kept until the block ends.

    That a node is there does not say that it has room, nor that it still lives: a place that was given does.
    """

    def __init__(self, bundle: Mapping[str, float], count: int) -> None:
        self._groups = [placement_group([dict(bundle)]) for _ in range(count)]

    def ready(self) -> int:
        """How many there are."""
        return sum(placement_group_table(group).get("state") == "CREATED" for group in self._groups)

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            remove_placement_group(group)


class Failures:
    """Which failure ends a training: see MOST_FAILURES. One that gained an epoch begins the count anew."""

    def __init__(self) -> None:
        self._count, self._furthest, self._lost_before = 0, 0, 0

    def last(self, furthest: int, lost: int) -> bool:
        """Whether this one ends it; `furthest` is the epoch reached in any attempt, `lost` the workers' nodes that have
        gone since the beginning. The loss of a node may become known only after the failure that it caused."""
        if furthest > self._furthest:
            self._count, self._furthest, self._lost_before = 0, furthest, lost
        self._count += 1
        return self._count - (lost - self._lost_before) >= MOST_FAILURES


def train_elastic(attempt: Callable[[int], Any], worker: Worker, workers: int, *, progress: Any, log: Log) -> Any:
    """What `attempt(n)`, a `fit` of n workers, returns at last: first with `workers` of them, which are there.

    `progress` is the ProgressActor that the workers report to. Raises what a worker raised as it was; RunError if there
    is room for none in `wait_minutes`.
    """
    from ray.train import PreemptionError, TrainingFailedError, WorkerGroupError

    failures, most, seen = Failures(), workers, Nodes()
    while True:
        try:
            found = attempt(workers)
            if not isinstance(found, Grow):
                return found
            most, why = found.most, "there is room for more"
        except TrainingFailedError as error:
            causes = error.worker_failures if isinstance(error, WorkerGroupError) else {}
            cause = cause_of(causes) or error
            furthest, lost = seen.since(progress)
            if not isinstance(error, PreemptionError) and failures.last(furthest, lost):
                raise cause from error
            why = f"a worker was lost or failed ({type(cause).__name__})"
        workers = places_for(most, worker, log)
        log(f"{why}: going on from the last checkpoint with {workers} of {most} workers")


class Nodes:
    """Nodes on which workers began; some may be gone."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def since(self, progress: Any) -> tuple[int, int]:
        """The furthest epoch of all attempts, and how many of the nodes are gone; nothing new of an actor that is."""
        furthest = 0
        with contextlib.suppress(RayActorError):
            furthest, nodes = ray.get(progress.survey.remote())
            self._seen |= nodes
        return furthest, len(self._seen - {node["NodeID"] for node in ray.nodes() if node["Alive"]})


def places_for(most: int, worker: Worker, log: Log) -> int:
    """For how many workers there is room, from one to `most`. RunError if there is for none in `wait_minutes`."""
    with Places(worker.bundle, most) as places:
        _await_first(places, worker, log)
        ready, changed = places.ready(), time.monotonic()
        while ready < most and time.monotonic() < changed + SETTLE_SECONDS:
            time.sleep(POLL_SECONDS)
            before, ready = ready, places.ready()
            changed = changed if ready == before else time.monotonic()
        return ready


def _await_first(places: Places, worker: Worker, log: Log) -> None:
    """Return when there is room for one worker; RunError if there is not in `wait_minutes`."""
    minutes = max(worker.wait_minutes if others_cluster() else 0.0, LEAST_WAIT_MINUTES)
    begun, said = time.monotonic(), False
    while not places.ready():
        waited = time.monotonic() - begun
        if waited > 60 * minutes:
            raise RunError(
                f"the training lost its workers, and no {worker.kind} for one has come in {minutes:g} min "
                "(resources.wait_minutes); add nodes, or wait longer: the same command goes on from the last checkpoint"
            )
        if waited > SETTLE_SECONDS and not said:
            said = True
            log(f"no {worker.kind} is left for a worker: asked for, waiting up to {minutes:g} min")
        time.sleep(POLL_SECONDS)


def fit(trainer: Any) -> Any:
    """The result of `trainer.fit()`, with KeyboardInterrupt at the first one.

    Ray Train's own handler of SIGINT takes the first two as a wish, at the third exits with 0, and stays for good.
    """
    controllers: list[Any] = []
    trainer._register_sigint_handler = controllers.append  # in its place
    try:
        with kept_handler(signal.SIGINT):
            return trainer.fit()
    except KeyboardInterrupt:
        for controller in controllers:
            with contextlib.suppress(RayActorError, GetTimeoutError):  # the controller ends with its workers
                ray.get(controller.abort.remote(), timeout=ABORT_SECONDS)
        raise


def cause_of(failures: Mapping[int, Exception]) -> Exception | None:
    """What the first worker that failed raised, None where that is not known."""
    causes = [getattr(failure, "cause", failure) for _, failure in sorted(failures.items())]
    return next((cause for cause in causes if isinstance(cause, Exception)), None)
