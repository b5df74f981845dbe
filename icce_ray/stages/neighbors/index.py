"""The index: actors that hold the unit features, where these are searched, and its recall.

Actors are spread over the nodes. One whose node goes away starts again elsewhere and reads its rows again, and the
calls it had are made again; blocks of queries and lists that were lost with a node are made again by their tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from icce_ray.core import search as exact
from icce_ray.core.neighbors import Limits, Neighbors, count_shared, merge
from icce_ray.core.products import CoarseRows
from icce_ray.core.sampling import uniform_rows
from icce_ray.progress import Progress
from icce_ray.search.faiss_index import PARTITION_ROWS, FaissCandidates, InvertedLists, default_lists, default_probes
from icce_ray.settings import NeighborsSettings, Settings
from icce_ray.stages.cluster import Resources, threads_here
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors.layout import Layout
from icce_ray.store import RunError

#: Rows read at a time: beside the shard no more than these are held.
_READ_ROWS = 2**16
#: Queries of one block where the recall is measured, and the seed of the images drawn for it: fixed, for the neighbours
#: depend on their own settings only.
_RECALL_ROWS, _RECALL_SEED = 4096, 0

Arrays = tuple[np.ndarray, ...]
"""Offsets, ids and similarities of lists, as they travel."""


@dataclass(frozen=True)
class Plan:
    """What every actor does with its rows."""

    search: str
    """`torch`, `faiss`, `ivf`, or `ground_truth`: by the classes."""
    device: str
    actors_per_node: int
    lists: int
    """Of `ivf`: inverted lists of each partition, and how many of them a query sees."""
    probes: int


class ShardedIndex:
    """Actors that hold all rows, each a part, once or in several copies; a search gives references only.

    `truth`, a reference to the class of every row, makes neighbours of the images of one class instead of those that
    are similar.
    """

    def __init__(
        self, rows: FeatureRows, settings: Settings, resources: Resources, layout: Layout, truth: Any = None
    ) -> None:
        self.rows = rows
        search = settings.neighbors.search if truth is None else "ground_truth"
        # Inverted lists are whole partitions, which actors share; otherwise an actor has one of its own.
        partitions = -(-len(rows) // PARTITION_ROWS) if search == "ivf" else layout.parts
        parts = min(layout.parts, partitions)
        edges = np.linspace(0, len(rows), partitions + 1).astype(int)
        shares = np.linspace(0, partitions, parts + 1).astype(int)
        self.lists = settings.neighbors.ivf_lists or default_lists(len(rows) // partitions)
        self.probes = min(self.lists, settings.neighbors.ivf_probes or default_probes(self.lists))
        plan = Plan(search, resources.device, -(-layout.actors // resources.nodes), self.lists, self.probes)
        # However many actors are asked for, all must start: they share GPUs, and leave half of the CPUs to tasks.
        cpus = min(0.5, ray.cluster_resources().get("CPU", 1.0) / 2 / layout.actors)
        actor = Shard.options(num_cpus=cpus, num_gpus=layout.gpu_share)
        self._first = edges[shares]
        self.copies: list[list[Any]] = [
            [
                actor.remote(rows, edges[first : last + 1].tolist(), plan, truth)
                for first, last in itertools.pairwise(shares.tolist())
            ]
            for _ in range(layout.copies)
        ]
        self._busy: list[list[Any]] = [[] for _ in self.copies]

    def search(self, start: int, stop: int, limits: Limits) -> list[Any]:
        """The lists of rows start ... stop - 1 in each part, of the copy that has least to do."""
        for number, pending in enumerate(self._busy):
            if pending:
                _, self._busy[number] = ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=False)
        least = min(range(len(self._busy)), key=lambda number: len(self._busy[number]))
        queries, numbers = _read.remote(self.rows, start, stop), np.arange(start, stop)
        found = [shard.search.remote(queries, numbers, limits) for shard in self.copies[least]]
        self._busy[least] += found
        return found

    def take(self, wanted: np.ndarray) -> Any:
        """Features of some rows, ascending, from the actors that have them."""
        inside = np.split(wanted, np.searchsorted(wanted, self._first[1:-1]))
        return _stack.remote(*(shard.take.remote(rows) for shard, rows in zip(self.copies[0], inside, strict=True)))

    def check_recall(self, settings: NeighborsSettings, limits: Limits, progress: Progress) -> dict[str, Any]:
        """Share of the exact neighbours of `recall_queries` random images that the inverted lists find, and the lists.

        Both are searched on the same actors, of one copy, merged and selected alike. Raises RunError below
        `settings.recall`, with the number of lists to look at that was seen to be enough.
        """
        size = min(settings.recall_queries, len(self.rows))
        sample = uniform_rows(len(self.rows), size, _RECALL_SEED)
        blocks = [sample[start : start + _RECALL_ROWS] for start in range(0, size, _RECALL_ROWS)]
        queries = [self.take(block) for block in blocks]

        def measured(probes: int) -> float:
            counts = []
            for numbers, features in zip(blocks, queries, strict=True):
                both = [
                    shard.search.remote(features, numbers, limits, search, probes)
                    for search in ("torch", "ivf")
                    for shard in self.copies[0]
                ]
                counts.append(ray.get(_count_shared.remote(limits, *both)))
            shared, of = np.sum(counts, axis=0)
            return float(shared / of)

        recall, probes = measured(self.probes), self.probes
        reached = f"{recall:.4f} with {probes} of {self.lists} inverted lists looked at"
        if recall < settings.recall:
            enough = recall
            while enough < settings.recall and probes < self.lists:
                probes = min(2 * probes, self.lists)
                enough = measured(probes)
            raise RunError(
                f"the recall of neighbors.search = ivf is {reached}, below neighbors.recall = {settings.recall} "
                f"({size:,} images); raise neighbors.ivf_probes to {probes}, which finds {enough:.4f}, or set "
                "neighbors.search=torch, which is exact"
            )
        progress.log(f"recall {reached}, on {size:,} images")
        return {"recall": recall, "recall_queries": size, "ivf_lists": self.lists, "ivf_probes": probes}


@ray.remote(max_restarts=20, max_task_retries=-1, scheduling_strategy="SPREAD")
class Shard:
    """Unit features of rows edges[0] ... edges[-1] - 1 on the device; FAISS has an index for each pair of edges."""

    def __init__(self, rows: FeatureRows, edges: list[int], plan: Plan, truth: np.ndarray | None) -> None:
        self.edges, self.plan, self.truth = edges, plan, truth
        self.threads = threads_here(plan.actors_per_node)
        torch.set_num_threads(self.threads)
        self.base = _unit_rows(rows, edges[0], edges[-1], plan.device)
        self.coarse = CoarseRows.of(self.base) if plan.search == "torch" else None
        self.indexes = self._indexes()

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Unit features of some rows of the shard, float32."""
        return self.base[torch.tensor(numbers - self.edges[0], device=self.base.device)].cpu().numpy()

    def search(
        self,
        queries: np.ndarray,
        numbers: np.ndarray,
        limits: Limits,
        search: str | None = None,
        probes: int | None = None,
    ) -> Arrays:
        """Lists of the rows `numbers` in this shard, by the plan or otherwise."""
        search = search or self.plan.search
        block = exact.unit_rows(torch.tensor(queries, device=self.base.device))  # a copy: Ray's arrays are read-only
        edges = [self.edges[0], self.edges[-1]] if search == "torch" else self.edges
        proposers, query_rows = self._proposers(search, numbers, probes or self.plan.probes), torch.tensor(numbers)
        parts = [
            exact.search_shard(
                block,
                self._rows(first, last),
                limits,
                query_rows=query_rows,
                first_base=first,
                coarse=self.coarse,
                propose=propose,
            )
            for (first, last), propose in zip(itertools.pairwise(edges), proposers, strict=True)
        ]
        lists = merge(parts, limits)
        return tuple(tensor.cpu().numpy() for tensor in (lists.offsets, lists.ids, lists.similarities))

    def _rows(self, first: int, last: int) -> Tensor:
        return self.base[first - self.edges[0] : last - self.edges[0]]

    def _indexes(self) -> list[Any]:
        """FAISS's, where the plan has it."""
        if self.plan.search not in ("faiss", "ivf"):
            return []
        parts = [self._rows(*edges) for edges in itertools.pairwise(self.edges)]
        gpu, threads = self.base.is_cuda, self.threads
        if self.plan.search == "faiss":
            return [FaissCandidates(part, gpu=gpu, threads=threads) for part in parts]
        with ThreadPoolExecutor(1 if gpu else threads) as pool:  # k-means takes a thread
            lists = self.plan.lists
            return list(pool.map(lambda part: InvertedLists(part, lists=lists, gpu=gpu, threads=threads), parts))

    def _proposers(self, search: str, numbers: np.ndarray, probes: int) -> Iterator[exact.Proposer | None]:
        """What proposes the candidates of each part; None is the core's own product."""
        if search == "torch":
            yield None
        elif search == "ground_truth":
            assert self.truth is not None, "the plan searches by class and the actor got no classes"
            classes, base = torch.tensor(self.truth[numbers]), torch.tensor(self.truth[self.edges[0] : self.edges[-1]])
            yield lambda _, own, __: exact.same_class(classes.to(own.device), base.to(own.device), own)
        for index in self.indexes if search in ("faiss", "ivf") else []:
            if search == "ivf":
                index.probes = probes
            yield index.propose


def as_lists(arrays: Arrays) -> Neighbors:
    """Lists as actors send them; copied, for Ray's arrays are read-only."""
    return Neighbors(*(torch.tensor(array) for array in arrays))


def _unit_rows(rows: FeatureRows, start: int, stop: int, device: str) -> Tensor:
    """float32 [stop - start, D] on the device, read in pieces: beside it none of the set is held."""
    base = torch.empty(0)
    for first in range(start, stop, _READ_ROWS):
        piece = torch.tensor(rows.features(first, min(first + _READ_ROWS, stop)), device=device)
        if first == start:
            base = torch.empty((stop - start, piece.shape[1]), device=device)
        base[first - start : first - start + len(piece)] = exact.unit_rows(piece)
    return base


@ray.remote(num_cpus=0.25)
def _read(rows: FeatureRows, start: int, stop: int) -> np.ndarray:
    """float16 as stored: what goes over the network is half of the unit rows, which the actors make."""
    return np.ascontiguousarray(rows.features(start, stop))


@ray.remote(num_cpus=0.25)
def _stack(*pieces: np.ndarray) -> np.ndarray:
    return np.concatenate(pieces)


@ray.remote(num_cpus=0.25)
def _count_shared(limits: Limits, *shards: Arrays) -> tuple[int, int]:
    """Of the entries of exact lists, the first half of the shards', how many the other half's has; and how many."""
    lists, half = [as_lists(arrays) for arrays in shards], len(shards) // 2
    return count_shared(merge(lists[half:], limits), merge(lists[:half], limits))
