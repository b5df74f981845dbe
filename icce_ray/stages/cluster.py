"""Ray itself: what the cluster has, and bounded work over numbered shards."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any, TypeVar

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from icce_ray.core.gpus import Gpus
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import ResourceSettings
from icce_ray.stages.gpus import gpus_of
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import Table

T = TypeVar("T")

#: A laptop's cluster gets at least this many logical CPUs: Ray's own helpers hold fractions of one, and a pipeline
#: of several operators must never wait for a CPU that another of its operators holds.
MIN_LOGICAL_CPUS = 4

#: Seconds between two looks at a cluster that is to grow, and between two lines that say so.
WAIT_POLL_SECONDS, WAIT_LINE_SECONDS = 2.0, 60.0

Log = Callable[[str], None]

#: For Ray's own processes on a laptop; whoever sets one of these is obeyed.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Ray Train looks for the end of a worker this often, not every 2 s
    # Threads of one product wait for each other. Ray's workers yield to every other process (niceness 15) and spin
    # while they wait: on a machine that does anything else a step takes many times longer (measured: 15 times). Not to
    # spin at all costs 1.6 times on a machine that does nothing else; so they spin for some microseconds (GNU OpenMP).
    "RAY_worker_niceness": "0",
    "GOMP_SPINCOUNT": "500",
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
    gpu_memory: int = 0
    """Bytes of the smallest GPU, where the device is `cuda`."""

    @property
    def gpu_share(self) -> float:
        """`num_gpus` of an actor or task that computes on the device."""
        return 1.0 if self.device == "cuda" else 0.0


def resources(settings: ResourceSettings, *, device: str | None = None, log: Log = lambda text: None) -> Resources:
    """What the cluster has for a stage, once it has what the settings ask for.

    `device` is that of the stages before: a run that began on GPUs waits for one, rather than go on without. Where
    torch can use none of the GPUs, `auto` is the CPU, and the log says so. Raises RunError if GPUs, or any CPUs at all,
    are not there and do not come in `wait_minutes` (without this check Ray would wait for them for ever, and say
    nothing), and if torch cannot use GPUs that are asked for, or some of them only.
    """
    wanted = device or settings.device
    if wanted == "cuda":
        least = max(settings.embed_actors or 1, settings.neighbor_shards or 1, settings.head_workers or 1)
        await_capacity("GPU", least, settings.wait_minutes, log)
    await_capacity("CPU", 1, settings.wait_minutes, log)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    shapes = [node["Resources"] for node in nodes]
    found = of_nodes(shapes, wanted)
    if found.device == "cpu":
        return found
    gpus = gpus_of(nodes)
    if fault := _fault(gpus, wanted):
        log(f"WARNING: resources.device = auto: {fault}. The run goes on on CPUs")
        return of_nodes(shapes, "cpu")
    return replace(found, gpu_memory=min(of_node.memory for of_node in gpus.values()))


def _fault(gpus: Mapping[str, Gpus], wanted: str) -> str:
    """Why torch can use the GPUs of no node, "" if it can use those of each. RunError if GPUs are a must, or some work.

    Of some that do and some that do not, Ray would give work to both.
    """
    faults = {address: of_node.fault for address, of_node in gpus.items() if of_node.fault}
    if not faults:
        return ""
    address, reason = next(iter(faults.items()))
    fault = f"torch cannot use the GPUs of {len(faults)} of {len(gpus)} nodes with GPUs; on {address}: {reason}"
    if wanted == "cuda" or len(faults) < len(gpus):
        raise RunError(
            f"resources.device = {wanted}, but {fault}; or take those nodes out of the cluster, or set "
            "resources.device=cpu. `icce doctor --cluster` looks at every node"
        )
    return fault


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
    has, minutes = _capacity(kind), minutes if others_cluster() else 0.0
    if has < least and minutes:
        log(f"the cluster has {has} of {least} {kind}s: asked for, waiting up to {minutes:g} min")
        group = placement_group([{kind: 1.0}] * least, strategy="PACK")
        try:
            has = _wait(kind, least, minutes, log)
        finally:
            remove_placement_group(group)
    if has < least:
        raise _too_few(kind, has, least, minutes)


def _wait(kind: str, least: int, minutes: float, log: Log) -> int:
    """What the cluster has of it when that is enough, or when the minutes are over."""
    begun = logged = time.monotonic()
    while (has := _capacity(kind)) < least and (now := time.monotonic()) < begun + 60 * minutes:
        if now >= logged + WAIT_LINE_SECONDS:
            logged = now
            log(f"{has} of {least} {kind}s, {(now - begun) / 60:.0f} of {minutes:g} min waited")
        time.sleep(min(WAIT_POLL_SECONDS, 60 * minutes))
    return has


def _too_few(kind: str, has: int, least: int, minutes: float) -> RunError:
    if kind == "GPU" and not has and not minutes:
        return _no_gpu("the cluster")
    waited = f" after {minutes:g} min (resources.wait_minutes)" if minutes else ""
    remedy = "add nodes, or wait longer"
    if kind == "GPU":
        remedy = (
            "add nodes with GPUs, ask for fewer (embed_actors, neighbor_shards, head_workers), wait longer, or set "
            "resources.device=cpu"
        )
    return RunError(f"the run needs {least} {kind}s, but the cluster has {has}{waited}; {remedy}")


def _capacity(kind: str) -> int:
    return int(ray.cluster_resources().get(kind, 0))


def room_for(cpus: float) -> Callable[[], int]:
    """How many tasks of so many CPUs to have under way: twice what fits, so that an autoscaler sees those that wait."""
    return lambda: max(2, int(2 * ray.cluster_resources().get("CPU", 1) / cpus))


def completed(tasks: Iterable[Any], limit: Callable[[], int]) -> Iterator[Any]:
    """Results of remote tasks as they end, at most `limit` under way: `tasks` gives the references when asked."""
    waiting, pending = iter(tasks), []
    while True:
        pending += itertools.islice(waiting, max(0, limit() - len(pending)))
        if not pending:
            return
        ready, pending = ray.wait(pending, num_returns=1)
        yield ray.get(ready[0])


def completed_groups(submit: Callable[[Sequence[T]], Any], shards: Sequence[T], *, cpus: float) -> Iterator[Any]:
    """Results of tasks of so many CPUs, each on several shards: `submit` starts the task of one group."""
    room = room_for(cpus)
    return completed(map(submit, grouped(shards, room())), room)


def grouped(shards: Sequence[T], tasks: int, most: int = 16) -> list[Sequence[T]]:
    """Shards for each task: several, so that what a task loads serves them all, but at least four tasks per worker.

    `tasks` run side by side; `most` limits what a task that was killed repeats.
    """
    size = max(1, min(most, len(shards) // (4 * tasks)))
    return [shards[start : start + size] for start in range(0, len(shards), size)]


def write_shards(
    store: Store,
    table: Table,
    rows: Sequence[int] | None,
    write: Callable[[list[int]], Iterable[list[FileInfo]]],
    progress: Progress,
    rejects: Table | None = None,
) -> list[FileInfo]:
    """All shards of a table, of so many rows each: `write` makes those that are not there and gives their files.

    Rows of `rejects`, whose shards are written with those of the table, count as its own. `rows` is None while it is
    not known how many shards there will be: then `write` knows which to make, and is given none.
    """
    done = set() if rows is None else store.parts(table, of=len(rows))
    rows = rows or ()
    finished, rejected = sum(rows[number] for number in done), 0
    progress.begin(sum(rows), done=finished, unit="images")
    files: list[FileInfo] = []
    for written in write([number for number in range(len(rows)) if number not in done]):
        files += written
        finished += sum(info.rows or 0 for info in written)
        rejected += sum(info.rows or 0 for info in rejects.files(written)) if rejects else 0
        progress.update(finished, **({"rejected": rejected} if rejects else {}))
    tables = [table, rejects] if rejects else [table]
    return files + described(store, tables, {info.path for info in files})


@ray.remote(num_cpus=0.25)
def _describe(root: str, path: str) -> FileInfo:
    return Store(root).storage.describe(path)


def described(store: Store, tables: list[Table], known: set[str]) -> list[FileInfo]:
    """Files of earlier, killed attempts: there already, so hashed by reading them."""
    paths = [
        path
        for table in tables
        for path, _ in store.storage.list(table.path)
        if table.holds(path) and path not in known
    ]
    return list(completed((_describe.remote(store.root, path) for path in paths), lambda: 32))
