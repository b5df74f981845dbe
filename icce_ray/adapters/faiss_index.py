"""Candidate neighbours from an exact FAISS index, for the core to re-score and select.

What `icce_ray.core.search.search_shard` asks of a proposer: an over-selection by a rigorous bound on the rounding
of a float32 dot product, so that after re-scoring both give identical neighbours. FAISS fuses product and selection,
so no block of similarities is ever written to memory.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from icce_ray.core.neighbors import check_limits
from icce_ray.core.products import rounding_margin

_SPARE = 8  # asked for beyond k, so that a row without ties needs one search
_BLOCK = 2**25  # answers of one search: 400 MB of similarities and ids
#: Of answers a query, and of inverted lists looked at, in FAISS on a GPU.
GPU_MAX = 2048


class FaissCandidates:
    """An `IndexFlatIP` over `base`, float32 [n, D] with unit rows.

    Args:
        base: the rows to search; copied into the index.
        gpu: hold the index on the first visible GPU.
        threads: of FAISS in this process from now on; by default as they are.

    Raises ValueError for rows of another type or shape, RuntimeError where a GPU is asked for and FAISS has none.
    """

    def __init__(self, base: np.ndarray, *, gpu: bool = False, threads: int | None = None) -> None:
        check_rows("base", base, None)
        self.n, self.dim = base.shape
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        self._index = faiss.IndexFlatIP(self.dim)
        if gpu:
            self._index = to_gpu(self._index)
        self._index.add(np.ascontiguousarray(base))
        self._max_k = min(GPU_MAX, self.n) if gpu else self.n
        self._expect_more = False

    def pairs(
        self,
        queries: np.ndarray,
        *,
        own: np.ndarray | None,
        threshold: float,
        k_min: int,
        k_max: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (query, base row) that contain every pair the core's `select` can keep.

        Args:
            queries: float32 [b, D], unit rows.
            own: int64 [b], the base row that is the query itself, -1 where there is none; never a candidate.
            threshold: smallest cosine similarity of a neighbour.
            k_min: neighbours that every query gets, whatever their similarity.
            k_max: neighbours that no query exceeds; ties at the k_max-th are all given, for the core to decide.

        Returns crow int64 [b + 1] and cols int64 [crow[-1]], ids ascending within a row.

        Raises ValueError for bad arguments, and on a GPU when more than 2,048 answers a query are needed.
        """
        check_limits(threshold, k_min, k_max)
        check_rows("queries", queries, self.dim)
        own = np.full(len(queries), -1, np.int64) if own is None else np.asarray(own, np.int64)
        rows, ids = self._found(queries, own, (threshold, k_min, k_max))
        order = np.argsort(rows * self.n + ids)
        crow = np.zeros(len(queries) + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(queries)), out=crow[1:])
        return crow, ids[order]

    def propose(
        self, queries: torch.Tensor, *, own: torch.Tensor, threshold: float, k_min: int, k_max: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`pairs` as `icce_ray.core.search.search_shard` asks for them: tensors, on the device of the queries."""
        limits = {"threshold": threshold, "k_min": k_min, "k_max": k_max}
        crow, cols = self.pairs(queries.cpu().numpy(), own=own.cpu().numpy(), **limits)
        return torch.from_numpy(crow).to(queries.device), torch.from_numpy(cols).to(queries.device)

    def _found(
        self, queries: np.ndarray, own: np.ndarray, limits: tuple[float, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidates as two columns, the query and the base row, in any order.

        The k nearest of each query are asked for, and more where they do not settle its candidates.
        """
        _, k_min, k_max = limits
        enough = k_max + 1 + _SPARE
        settled = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        todo, k = np.arange(len(queries)), min(enough if self._expect_more else k_min + 1 + _SPARE, self._max_k)
        while len(todo) and k:
            rows = max(1, _BLOCK // k)
            unfinished = []
            for start in range(0, len(todo), rows):
                block = todo[start : start + rows]
                done, row, ids = self._settled(queries[block], own[block], k, limits)
                settled.append((block[row], ids))
                unfinished.append(block[~done])
            todo = np.concatenate(unfinished)
            if k < enough:  # where most queries want more, those of the next block will
                self._expect_more = 2 * len(todo) > len(queries)
            if len(todo) and k == self._max_k:
                raise ValueError(
                    f"FAISS gives at most {k} answers a query on a GPU, {len(todo)} queries need more "
                    f"(k_max {k_max}, ties included); lower k_max, or use the index on the CPU or the core's own search"
                )
            k = min(max(2 * k, enough), self._max_k)
        rows, ids = (np.concatenate(column) for column in zip(*settled, strict=True))
        return rows, ids

    def _settled(
        self, queries: np.ndarray, own: np.ndarray, k: int, limits: tuple[float, int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which queries' candidates are all among their k nearest, bool [b]; and these, as `_found` gives them."""
        similarities, ids = self._nearest(np.ascontiguousarray(queries), k)
        # Nothing that was not returned is above this.
        bound = similarities[:, -1].copy() if k < self.n else np.full(len(queries), -np.inf, np.float32)
        similarities[ids == own[:, None]] = -np.inf
        cut = _cut(similarities, rounding_margin(self.dim), *limits)
        done = bound < cut
        chosen = (similarities >= cut[:, None]) & done[:, None]
        return done, chosen.nonzero()[0], ids[chosen]

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and ids [b, k], descending; ids of -1, below every similarity, where there are not so many."""
        return self._index.search(queries, k)


def _cut(similarities: np.ndarray, margin: float, threshold: float, k_min: int, k_max: int) -> np.ndarray:
    """From which similarity on a pair is a candidate: [rows], given each row's nearest [rows, k], -inf for itself.

    As in the core: `threshold`, raised to the k_max-th where more reach it, lowered to the k_min-th where fewer do, all
    with room for rounding. Where a row's k_max-th lies beyond the k given, the cut is the threshold's, which is lower.
    """
    nearest = -np.sort(-similarities, axis=1)
    cut = np.full(len(nearest), threshold - margin)
    if k_max <= nearest.shape[1]:
        many = nearest[:, k_max - 1] >= threshold - margin
        cut[many] = np.maximum(cut[many], nearest[many, k_max - 1] - 2 * margin)
    last = min(k_min, nearest.shape[1]) - 1
    few = nearest[:, last] < threshold + margin
    cut[few] = np.minimum(cut[few], nearest[few, last] - 2 * margin)
    return np.maximum(cut, -2.0)  # a query's own -inf stays below


def check_rows(name: str, rows: np.ndarray, dim: int | None) -> None:
    """Raise ValueError unless `rows` is float32 [n, dim], of any width where `dim` is None."""
    if rows.dtype != np.float32 or rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        wanted = f"[n, {'D' if dim is None else dim}]"
        raise ValueError(f"{name} is {rows.dtype} {list(rows.shape)}; it must be float32 {wanted} with unit rows")


def to_gpu(index: Any) -> Any:
    """The same index on the first visible GPU. Raises RuntimeError where FAISS has none."""
    if not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError(
            "the index is asked for on a GPU, but this FAISS is built for CPUs; put another in its place (pip "
            "uninstall faiss-cpu; pip install faiss-gpu-cu12), or take neighbors.search=torch, or leave "
            "the index on the CPU"
        )
    if faiss.get_num_gpus() < 1:
        raise RuntimeError("the index is asked for on a GPU, but FAISS sees none; leave the index on the CPU")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
