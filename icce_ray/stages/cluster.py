"""Ray itself: the connection, what the cluster has, and bounded work over numbered parts."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.settings import ResourceSettings
from icce_ray.store import RunError

#: A laptop's cluster gets at least this many logical CPUs: Ray's own helpers hold fractions of one, and a pipeline
#: of several operators must never wait for a CPU that another of its operators holds.
MIN_LOGICAL_CPUS = 4


#: For Ray's own processes on a laptop; whoever sets one of these is obeyed.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Ray Train looks for the end of a worker this often, not every 2 s
    # Threads of one product wait for each other. Ray's workers yield to every other process (niceness 15) and spin
    # while they wait: on a machine that does anything else a step takes many times longer (measured: 15 times).
    "RAY_worker_niceness": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A connection to Ray: the one that is there, the cluster that RAY_ADDRESS names, or a local one for this run."""
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run is raised, and shown once
        with _stderr_of_c_closed():
            ray.init(
                address="local",  # else Ray takes the cluster that somebody's `ray start` left on this machine
                num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _stderr_of_c_closed() -> Iterator[None]:
    """Ray's C++ part announces its log level on standard error and cannot be told not to; Python still raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_device(settings: ResourceSettings) -> None:
    """Raise RunError if a GPU is asked for on a machine that has none and is its own cluster: before Ray starts."""
    import torch  # heavy, and most processes that import this module never ask

    alone = not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
    if settings.device == "cuda" and alone and not torch.cuda.is_available():
        raise _no_gpu("this machine")


def _no_gpu(where: str) -> RunError:
    return RunError(
        f"resources.device = cuda, but {where} has 0 GPUs that torch can use; use a machine with one, or set "
        "resources.device=cpu (or auto, which takes GPUs where there are any)"
    )


@dataclass(frozen=True)
class Resources:
    """What the stages may ask Ray for, decided once a run."""

    device: str
    """`cuda` or `cpu`, where tensors live."""
    gpus: int
    nodes: int
    cores: int
    """Physical parallelism of one node, for threads."""

    @property
    def gpu_share(self) -> float:
        """`num_gpus` of an actor or task that computes on the device."""
        return 1.0 if self.device == "cuda" else 0.0


def resources(settings: ResourceSettings) -> Resources:
    """What the cluster has for this run. Raises RunError if GPUs are asked for and there are none.

    Without this check Ray would wait for a GPU that never comes.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if settings.device == "cuda" and gpus == 0:
        raise _no_gpu("the cluster")
    device = "cuda" if gpus and settings.device != "cpu" else "cpu"
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    return Resources(device=device, gpus=gpus, nodes=nodes, cores=os.cpu_count() or 1)


def run_bounded(
    submit: Callable[[int], Any], indices: Sequence[int], *, limit: int, on_result: Callable[[Any], None]
) -> None:
    """Run one remote task for each index, at most `limit` at a time, and hand every result over as it comes.

    `submit(index)` returns the reference of the task whose result ends the work on that index.
    """
    pending: set[Any] = set()
    todo: Iterable[int] = iter(indices)
    for index in todo:
        pending.add(submit(index))
        if len(pending) >= limit:
            pending = _drain(pending, on_result)
    while pending:
        pending = _drain(pending, on_result)


def run_files(
    submit: Callable[[int], Any], indices: Sequence[int], *, limit: int, finished: int, progress: StageProgress
) -> list[FileInfo]:
    """`run_bounded` for tasks that each write a shard; `finished` rows were there before. Returns the files."""
    found: list[FileInfo] = []

    def on_result(info: FileInfo) -> None:
        nonlocal finished
        found.append(info)
        finished += info.rows or 0
        progress.update(finished)

    run_bounded(submit, indices, limit=limit, on_result=on_result)
    return found


def _drain(pending: set[Any], on_result: Callable[[Any], None]) -> set[Any]:
    ready, rest = ray.wait(list(pending), num_returns=1)
    for reference in ready:
        on_result(ray.get(reference))
    return set(rest)
