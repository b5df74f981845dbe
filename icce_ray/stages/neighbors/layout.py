"""Where the index lies: copies that share the queries where the base fits each device, parts of it where it does not.

A copy answers its queries alone, so nothing is merged and no two devices wait for each other; of a base in parts every
query goes to each, and a task merges as many lists. Both give the same lists. What cannot work is said before anything
is mined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from icce_ray.core.search import USABLE_MEMORY, base_bytes, parts_needed, work_bytes
from icce_ray.stages.cluster import Resources
from icce_ray.store import RunError

#: Of what Ray counts as a node's memory, what the index may take: tasks read, merge and write beside it.
_NODE_SHARE = 0.5


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
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if resources.device == "cuda":
        ids = [node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) >= 1]
        # Soft: a node that goes meanwhile is no fault.
        places = [NodeAffinitySchedulingStrategy(one, soft=True) for one in ids]
        return min(ray.get([_gpu_memory.options(scheduling_strategy=place).remote() for place in places]))
    # A node that does not say how much it has counts as too small for a copy.
    return min(
        (_NODE_SHARE * node["Resources"].get("memory", 0.0) for node in nodes if node["Resources"].get("CPU", 0) >= 1),
        default=0.0,
    )


@ray.remote(num_cpus=0, num_gpus=0.01)
def _gpu_memory() -> int:
    import torch

    return torch.cuda.mem_get_info()[1]
