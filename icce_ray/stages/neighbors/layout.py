"""Where the index lies: copies that share the queries where the base fits each device, parts of it where it does not.

A copy answers its queries alone, so nothing is merged and no two devices wait for each other; of a base in parts every
query goes to each, and a task merges as many lists. Both give the same lists. What cannot work is said before anything
is mined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ray

from icce_ray.core.neighbors import default_k_max
from icce_ray.core.search import USABLE_MEMORY, base_bytes, parts_needed, work_bytes
from icce_ray.search.faiss_index import check_faiss, check_k_max
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, others_cluster
from icce_ray.store import RunError

#: Of what Ray counts as a node's memory, what the index may take: tasks read, merge and write beside it.
_NODE_SHARE = 0.5
#: `num_gpus` of a task that only looks: it fits beside others.
_SLIVER = 0.01


@dataclass(frozen=True)
class Layout:
    """How many actors hold the base between them, and how often."""

    parts: int
    copies: int
    gpu_share: float = 0.0
    """`num_gpus` of each actor."""

    @property
    def actors(self) -> int:
        """All of them."""
        return self.parts * self.copies


@dataclass(frozen=True)
class Demand:
    """What is searched: it decides the memory."""

    images: int
    dim: int
    search: str
    k_max: int
    rows: int
    """Queries of a block."""


def layout_of(demand: Demand, resources: Resources, memory: float, asked: int | None) -> Layout:
    """As few parts as fit `memory` bytes each, or the number `asked` for, and a copy for every set of so many devices.

    `memory` is of a GPU, or of a node without GPUs. No more copies are made than there are blocks of queries. Raises
    RunError where GPUs are too small or too few; a node's memory is no such limit, and there parts are as many as
    nodes.
    """
    cuda = resources.device == "cuda"
    devices = resources.gpus if cuda else resources.nodes
    base = base_bytes(demand.images, demand.dim, demand.search)
    work = work_bytes(demand.dim, rows=demand.rows, k_max=min(demand.k_max, demand.images), device=resources.device)
    needed = parts_needed(base, work, memory)
    # Where no number of parts would fit a GPU, the check below says so for any.
    parts = int(min(asked or min(needed, devices), demand.images))
    on_each = math.ceil(parts / devices)
    if cuda and on_each * (base / parts + work) > USABLE_MEMORY * memory:
        raise _too_large(base, work, memory, resources.gpus, asked, needed)
    copies = max(1, min(devices // parts, math.ceil(demand.images / demand.rows)))
    return Layout(parts, copies, 1 / math.ceil(parts * copies / devices) if cuda else 0.0)


def _too_large(base: float, work: float, memory: float, gpus: int, asked: int | None, needed: float) -> RunError:
    sizes = (
        f"the search for neighbours holds {base / 1e9:.1f} GB of features and {work / 1e9:.1f} GB of work on each GPU, "
        f"but there are {gpus} GPUs of {memory / 1e9:.1f} GB, of which {USABLE_MEMORY:.0%} are used"
    )
    remedies = "lower heads.max_images, neighbors.components or neighbors.rows_per_shard, or set resources.device=cpu"
    if asked and needed <= gpus:
        return RunError(
            f"resources.neighbor_shards = {asked}: {sizes}; set it to {needed:.0f} or more, or leave it out"
        )
    if needed < math.inf:
        return RunError(f"{sizes}; use {needed:.0f} GPUs like these, or {remedies}")
    return RunError(f"{sizes}; use larger GPUs, or {remedies}")


def memory_of_devices(resources: Resources) -> float:
    """Bytes of the smallest GPU, or of the smallest node that works, less what its tasks need."""
    if resources.device == "cuda":
        return resources.gpu_memory
    # A node that does not say how much it has counts as too small for a copy.
    shapes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min((_NODE_SHARE * has.get("memory", 0.0) for has in shapes if has.get("CPU", 0) >= 1), default=0.0)


def check_here(settings: Settings) -> None:
    """Raise RunError if the search needs FAISS and this process, where it is its own cluster, has none.

    Of a cluster only its workers need FAISS: `check_search`.
    """
    alone = not ray.is_initialized() and not others_cluster()
    if alone and _by_faiss(settings) and (fault := _fault(gpu=False)):
        raise RunError(fault)


def check_search(settings: Settings, n_images: int, resources: Resources) -> None:
    """Raise RunError if the workers have no FAISS that the search can use, or it gives fewer neighbours than wanted.

    `n_images` are those listed, so that this is known before any is embedded.
    """
    if not _by_faiss(settings):
        return
    gpu, chosen = resources.device == "cuda", settings.neighbors
    if fault := _fault_of_workers(gpu=gpu):
        raise RunError(fault)
    learned, k_min = min(n_images, settings.heads.max_images), chosen.k_min or 1
    k_max = k_min if chosen.mode == "fixed" else chosen.k_max
    if k_max is None and not settings.count_unknown:
        k_max = default_k_max(learned, settings.clusters, k_min)
    if gpu and k_max is not None:
        try:
            check_k_max(k_max, learned)
        except ValueError as error:
            raise RunError(str(error)) from error


def _by_faiss(settings: Settings) -> bool:
    return settings.neighbors.search != "torch" and settings.neighbors.mode != "ground_truth"


def _fault(*, gpu: bool) -> str:
    """What is wrong with FAISS in this process, empty if nothing."""
    try:
        check_faiss(gpu=gpu)
    except RuntimeError as error:
        return str(error)
    return ""


def _fault_of_workers(*, gpu: bool) -> str:
    make: Any = ray.remote(num_cpus=0.25, num_gpus=_SLIVER if gpu else 0)
    return ray.get(make(_fault).remote(gpu=gpu))
