"""The actor of the index: unit features of one shard, loaded and searched where it is.

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

from icce_ray.core import search as exact
from icce_ray.core.neighbors import merge
from icce_ray.core.products import CoarseRows
from icce_ray.stages.cluster import threads_here
from icce_ray.stages.features import FeatureRows

#: Rows read at a time: beside the shard no more than these are held.
_READ_ROWS = 2**16


@dataclass(frozen=True)
class Plan:
    """What every actor does with its rows."""

    search: str
    """`torch`, `faiss`, `ivf`, or `ground_truth`: by the classes."""
    device: str
    actors_a_node: int
    lists: int
    """Of `ivf`: inverted lists of each partition, and how many of them a query sees."""
    probes: int


@ray.remote(max_restarts=20, max_task_retries=-1, scheduling_strategy="SPREAD")
class Shard:
    """Unit features of rows edges[0] ... edges[-1] - 1 on the device; FAISS has an index for each pair of edges."""

    def __init__(self, rows: FeatureRows, edges: list[int], plan: Plan, truth: np.ndarray | None) -> None:
        self.edges, self.plan, self.truth = edges, plan, truth
        self.threads = threads_here(plan.actors_a_node)
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
        limits: dict[str, Any],
        search: str | None = None,
        probes: int | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Lists of the rows `numbers` in this shard, by the plan or otherwise: offsets, row numbers, similarities."""
        search = search or self.plan.search
        block = exact.unit_rows(torch.tensor(queries, device=self.base.device))  # a copy: Ray's arrays are read-only
        edges = [self.edges[0], self.edges[-1]] if search == "torch" else self.edges
        proposers = self._proposers(search, numbers, probes or self.plan.probes)
        parts = [
            exact.search_shard(
                block,
                self._rows(first, last),
                query_rows=torch.tensor(numbers),
                first_base=first,
                coarse=self.coarse,
                propose=by,
                **limits,
            )
            for (first, last), by in zip(itertools.pairwise(edges), proposers, strict=True)
        ]
        lists = merge(parts, **limits)
        return tuple(tensor.cpu().numpy() for tensor in (lists.offsets, lists.ids, lists.similarities))

    def _rows(self, first: int, last: int) -> torch.Tensor:
        return self.base[first - self.edges[0] : last - self.edges[0]]

    def _indexes(self) -> list[Any]:
        """FAISS's, where the plan has it."""
        parts = [self._rows(*edges) for edges in itertools.pairwise(self.edges)]
        if self.plan.search == "faiss":
            from icce_ray.adapters.faiss_index import FaissCandidates

            threads = {"gpu": self.base.is_cuda, "threads": self.threads}
            return [FaissCandidates(part.cpu().numpy(), **threads) for part in parts]
        if self.plan.search == "ivf":
            from icce_ray.adapters.faiss_lists import InvertedLists

            options = {"lists": self.plan.lists, "gpu": self.base.is_cuda, "threads": self.threads}
            with ThreadPoolExecutor(1 if self.base.is_cuda else self.threads) as pool:  # k-means takes a thread
                return list(pool.map(lambda part: InvertedLists(part.cpu().numpy(), **options), parts))
        return []

    def _proposers(self, search: str, numbers: np.ndarray, probes: int) -> Iterator[exact.Proposer | None]:
        """What proposes the candidates of each part; None is the core's own product."""
        if search == "torch":
            yield None
        elif search == "ground_truth":
            yield _by_class(self.truth, numbers, self.edges)
        for index in self.indexes if search in ("faiss", "ivf") else []:
            if search == "ivf":
                index.probes = probes
            yield index.propose


def _unit_rows(rows: FeatureRows, start: int, stop: int, device: str) -> torch.Tensor:
    """float32 [stop - start, D] on the device, read in pieces: beside it none of the set is held."""
    base = torch.empty(0)
    for first in range(start, stop, _READ_ROWS):
        piece = torch.tensor(rows.features(first, min(first + _READ_ROWS, stop)), device=device)
        if first == start:
            base = torch.empty((stop - start, piece.shape[1]), device=device)
        base[first - start : first - start + len(piece)] = exact.unit_rows(piece)
    return base


def _by_class(truth: np.ndarray | None, numbers: np.ndarray, edges: list[int]) -> exact.Proposer:
    """The images of the queries' classes."""
    if truth is None:
        raise ValueError("neighbours by class without classes; report this")
    classes, base_classes = torch.tensor(truth[numbers]), torch.tensor(truth[edges[0] : edges[-1]])

    def propose(queries: torch.Tensor, *, own: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return exact.same_class(classes.to(own.device), base_classes.to(own.device), own)

    return propose
