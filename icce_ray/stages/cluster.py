"""Ray itself: what the cluster has, and bounded work over numbered shards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any, NoReturn, TypeVar

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import ResourceSettings
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import Table

T = TypeVar("T")

#: A laptop's cluster gets at least this many logical CPUs: Ray's own helpers hold fractions of one, and a pipeline
#: of several operators must never wait for a CPU that another of its operators holds.
MIN_LOGICAL_CPUS = 4

#: Seconds between two looks at a cluster that is to grow, and between two lines that say so.
WAIT_POLL_SECONDS, WAIT_LINE_SECONDS = 2.0, 60.0

Log = Callable[[str], None]
#: Of tasks at a time; a function is asked again and again, for a cluster that grows.
Limit = int | Callable[[], int]

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


def check_device(settings: ResourceSettings) -> None:
    """Raise RunError if a GPU is asked for on a machine that has none and is its own cluster: before Ray starts."""
    import torch  # heavy, and most processes that import this module never ask

    alone = not ray.is_initialized() and not others_cluster()
    if settings.device == "cuda" and alone and not torch.cuda.is_available():
        raise _no_gpu("this machine")


def _no_gpu(where: str) -> RunError:
    return RunError(
        f"resources.device = cuda, but {where} has 0 GPUs that torch can use; use a machine with one, or set "
        "resources.device=cpu (or auto, which takes GPUs where there are any)"
    )


@dataclass(frozen=True)
class Resources:
    """What a stage may ask Ray for, decided when it begins: nodes of a cluster come and go."""

    device: str
    """`cuda` or `cpu`, where tensors live."""
    gpus: int
    nodes: int
    """Those that can work: a head without CPUs is none."""
    cores: int
    """CPUs of a typical node, of those with GPUs where the device is `cuda`: for threads."""

    @property
    def gpu_share(self) -> float:
        """`num_gpus` of an actor or task that computes on the device."""
        return 1.0 if self.device == "cuda" else 0.0


def resources(settings: ResourceSettings, *, device: str | None = None, log: Log = lambda text: None) -> Resources:
    """What the cluster has for a stage, once it has what the settings ask for.

    `device` is that of the stages before: a run that began on GPUs waits for one, rather than go on without. Raises
    RunError if GPUs, or any CPUs at all, are not there and do not come in `wait_minutes`. Without this check Ray would
    wait for them for ever, and say nothing.
    """
    wanted = device or settings.device
    if wanted == "cuda":
        least = max(settings.embed_actors or 1, settings.neighbor_shards or 1, settings.head_workers or 1)
        await_capacity("GPU", least, settings.wait_minutes, log)
    await_capacity("CPU", 1, settings.wait_minutes, log)
    return of_nodes([node["Resources"] for node in ray.nodes() if node["Alive"]], wanted)


def of_nodes(nodes: Sequence[Mapping[str, float]], device: str) -> Resources:
    """`resources` from what each node has; `device` may be `auto`."""
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    device = "cuda" if gpus and device != "cpu" else "cpu"
    workers = [node for node in nodes if node.get("CPU", 0) >= 1]
    typical = [node for node in workers if node.get("GPU", 0) >= 1] if device == "cuda" else workers
    cores = int(median_low([node["CPU"] for node in typical or workers or [{"CPU": 1}]]))
    if len(nodes) == 1:  # a laptop's logical CPUs are more than it has, for Ray's own helpers
        cores = min(cores, os.cpu_count() or 1)
    return Resources(device=device, gpus=gpus, nodes=max(1, len(workers)), cores=cores)


def threads_here(sharers: int) -> int:
    """Threads for one of so many actors that share the CPUs of the node this process runs on."""
    here = ray.get_runtime_context().get_node_id()
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here]
    # In a container the machine has more CPUs than the node may use; on a laptop Ray counts more than there are.
    return max(1, int(min(*cpus, os.cpu_count() or 1)) // sharers)


def others_cluster() -> bool:
    """Whether this process works on a cluster that was there before it, which may grow and shrink."""
    return bool(os.environ.get("RAY_ADDRESS"))


def await_capacity(kind: str, least: int, minutes: float, log: Log) -> None:
    """Return when the cluster has `least` GPUs or CPUs; RunError if they do not come.

    What is missing is asked for by a placement group, which the autoscaler sees as it sees tasks that wait, and which
    is gone when this process is.
    """
    has = _capacity(kind)
    if has >= least:
        return
    minutes = minutes if others_cluster() else 0.0
    if minutes:
        group = placement_group([{kind: 1.0}] * least, strategy="PACK")
        try:
            has = _wait(kind, least, minutes, log)
        finally:
            remove_placement_group(group)
    if has < least:
        _too_little(kind, has, least, minutes)


def _wait(kind: str, least: int, minutes: float, log: Log) -> int:
    """What the cluster has of it when that is enough, or when the minutes are over."""
    begun = logged = time.monotonic()
    log(f"the cluster has {_capacity(kind)} of {least} {kind}s: asked for, waiting up to {minutes:g} min")
    while (has := _capacity(kind)) < least and (now := time.monotonic()) < begun + 60 * minutes:
        if now >= logged + WAIT_LINE_SECONDS:
            logged = now
            log(f"{has} of {least} {kind}s, {(now - begun) / 60:.0f} of {minutes:g} min waited")
        time.sleep(min(WAIT_POLL_SECONDS, 60 * minutes))
    return has


def _too_little(kind: str, has: int, least: int, minutes: float) -> NoReturn:
    waited = f" after {minutes:g} min (resources.wait_minutes)" if minutes else ""
    if kind == "GPU" and not has and not minutes:
        raise _no_gpu("the cluster")
    remedy = (
        "add nodes with GPUs, ask for fewer (embed_actors, neighbor_shards, head_workers), wait longer, or set "
        "resources.device=cpu"
        if kind == "GPU"
        else "add nodes, or wait longer"
    )
    raise RunError(f"the run needs {least} {kind}s, but the cluster has {has}{waited}; {remedy}")


def _capacity(kind: str) -> int:
    return int(ray.cluster_resources().get(kind, 0))


def room_for(cpus: float) -> Callable[[], int]:
    """How many tasks of so many CPUs to have under way: twice what fits, so that an autoscaler sees those that wait."""
    return lambda: max(2, int(2 * ray.cluster_resources().get("CPU", 1) / cpus))


def run_bounded(
    submit: Callable[[int], Any], indices: Sequence[int], *, limit: Limit, on_result: Callable[[Any], None]
) -> None:
    """Run one remote task for each index, at most `limit` at a time, and hand every result over as it comes.

    `submit(index)` returns the reference of the task whose result ends the work on that index.
    """
    pending: set[Any] = set()
    for index in indices:
        pending.add(submit(index))
        while len(pending) >= (limit if isinstance(limit, int) else limit()):
            pending = _drain(pending, on_result)
    while pending:
        pending = _drain(pending, on_result)


def run_files(
    submit: Callable[[int], Any], indices: Sequence[int], *, limit: Limit, finished: int, progress: Progress
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


def grouped(shards: Sequence[T], tasks: int, most: int = 16) -> list[Sequence[T]]:
    """Shards for each task: several, so that what a task loads serves them all, but at least four tasks per worker.

    `tasks` run side by side; `most` limits what a task that was killed repeats.
    """
    size = max(1, min(most, len(shards) // (4 * tasks)))
    return [shards[start : start + size] for start in range(0, len(shards), size)]


@ray.remote(num_cpus=0.25)
def _describe(root: str, path: str) -> FileInfo:
    return Store(root).storage.describe(path)


def described(store: Store, tables: list[Table], known: set[str]) -> list[FileInfo]:
    """Files of earlier, killed attempts: there already, so hashed by reading them."""
    there = [(table, path) for table in tables for path, _ in store.storage.list(table.path)]
    paths = [path for table, path in there if table.holds(path) and path not in known]
    files: list[FileInfo] = []
    run_bounded(
        lambda index: _describe.remote(store.root, paths[index]), range(len(paths)), limit=32, on_result=files.append
    )
    return files
