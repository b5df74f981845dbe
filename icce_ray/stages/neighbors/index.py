"""The index as the driver sees it: actors that share the rows, and references to what they find."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import ray

from icce_ray.adapters.faiss_lists import PARTITION_ROWS, default_lists, default_probes
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors.shard import Plan, Shard


class ShardedIndex:
    """Actors that hold all rows between them; a search gives references only.

    By default one actor a GPU, else one a node. `truth`, a reference to the class of every row, makes neighbours of the
    images of one class instead of those that are similar.
    """

    def __init__(self, rows: FeatureRows, settings: Settings, resources: Resources, truth: Any = None) -> None:
        self.rows = rows
        gpus = resources.gpus if resources.device == "cuda" else 0
        wanted = settings.resources.neighbor_shards or gpus or resources.nodes
        search = settings.neighbors.search if truth is None else "ground_truth"
        # Inverted lists are whole partitions, which actors share; otherwise an actor has one of its own.
        partitions = -(-len(rows) // PARTITION_ROWS) if search == "ivf" else min(wanted, len(rows))
        count = min(wanted, partitions)
        edges = np.linspace(0, len(rows), partitions + 1).astype(int)
        shares = np.linspace(0, partitions, count + 1).astype(int)
        self.lists = settings.neighbors.ivf_lists or default_lists(len(rows) // partitions)
        self.probes = min(self.lists, settings.neighbors.ivf_probes or default_probes(self.lists))
        plan = Plan(search, resources.device, -(-count // resources.nodes), self.lists, self.probes)
        # However many actors are asked for, all must start: they share GPUs, and leave half of the CPUs to tasks.
        cpus = min(0.5, ray.cluster_resources().get("CPU", 1.0) / 2 / count)
        actor = Shard.options(num_cpus=cpus, num_gpus=1 / -(-count // gpus) if gpus else 0)
        self._first = edges[shares]
        self.shards: list[Any] = [
            actor.remote(rows, edges[first : last + 1].tolist(), plan, truth)
            for first, last in itertools.pairwise(shares.tolist())
        ]

    def search(self, start: int, stop: int, limits: dict[str, Any]) -> list[Any]:
        """The lists of rows start ... stop - 1 in each shard."""
        queries, numbers = _read.remote(self.rows, start, stop), np.arange(start, stop)
        return [shard.search.remote(queries, numbers, limits) for shard in self.shards]

    def take(self, wanted: np.ndarray) -> Any:
        """Features of some rows, ascending, from the shards that have them."""
        inside = np.split(wanted, np.searchsorted(wanted, self._first[1:-1]))
        return _stack.remote(*(shard.take.remote(rows) for shard, rows in zip(self.shards, inside, strict=True)))

    def search_by(
        self, search: str, queries: Any, numbers: np.ndarray, limits: dict[str, Any], probes: int
    ) -> list[Any]:
        """The lists of some rows in each shard by another search than the plan's, or by `ivf` with other probes."""
        return [shard.search.remote(queries, numbers, limits, search, probes) for shard in self.shards]


@ray.remote(num_cpus=0.25)
def _read(rows: FeatureRows, start: int, stop: int) -> np.ndarray:
    """float16 as stored: what goes over the network is half of the unit rows, which the actors make."""
    return np.ascontiguousarray(rows.features(start, stop))


@ray.remote(num_cpus=0.25)
def _stack(*pieces: np.ndarray) -> np.ndarray:
    return np.concatenate(pieces)
