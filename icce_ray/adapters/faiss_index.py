"""Candidate neighbours from an exact FAISS index, for the core to re-score and select.

The same contract as `icce_ray.core.search.candidate_pairs`: an over-selection by a rigorous bound on the rounding
of a float32 dot product, so that after re-scoring both give identical neighbours. FAISS fuses product and selection,
so no block of similarities is ever written to memory.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from icce_ray.core.neighbors import check_limits
from icce_ray.core.search import rounding_margin

_SPARE = 8  # asked for beyond k, so that a row without ties needs one search
_BLOCK = 2**25  # answers of one search: 400 MB of similarities and ids
_GPU_MAX_K = 2048


class FaissCandidates:
    """An `IndexFlatIP` over `base`, float32 [n, D] with unit rows.

    Args:
        base: the rows to search; copied into the index.
        gpu: hold the index on the first visible GPU.

    Raises ValueError for rows of another type or shape, RuntimeError where a GPU is asked for and FAISS has none.
    """

    def __init__(self, base: np.ndarray, *, gpu: bool = False) -> None:
        _check_rows("base", base, None)
        self.n, self.dim = base.shape
        index: Any = faiss.IndexFlatIP(self.dim)
        if gpu:
            index = _to_gpu(index)
        index.add(np.ascontiguousarray(base))
        self._index, self._max_k = index, min(_GPU_MAX_K, self.n) if gpu else self.n

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
        _check_rows("queries", queries, self.dim)
        own = np.full(len(queries), -1, np.int64) if own is None else np.asarray(own, np.int64)
        found: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
        todo, k = np.arange(len(queries)), min(k_min + 1 + _SPARE, self._max_k)
        while len(todo):
            rows = max(1, _BLOCK // max(k, 1))
            unfinished = []
            for start in range(0, len(todo), rows):
                block = todo[start : start + rows]
                unfinished.append(self._search(queries, own, block, k, found, (threshold, k_min, k_max)))
            todo = np.concatenate(unfinished)
            wanted = max(2 * k, k_max + 1 + _SPARE)
            if len(todo) and k == self._max_k:
                raise ValueError(
                    f"FAISS gives at most {k} answers a query on a GPU, {len(todo)} queries need more "
                    f"(k_max {k_max}, ties included); lower k_max, or use the index on the CPU or the core's own search"
                )
            k = min(wanted, self._max_k)
        crow = np.zeros(len(queries) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=crow[1:])
        return crow, np.concatenate([*found, np.empty(0, np.int64)])

    def _search(
        self,
        queries: np.ndarray,
        own: np.ndarray,
        block: np.ndarray,
        k: int,
        found: list[np.ndarray],
        limits: tuple[float, int, int],
    ) -> np.ndarray:
        """Fill `found` for the queries `block` whose k nearest settle their candidates; return the other queries."""
        if k == 0:
            return block[:0]
        similarities, ids = self._index.search(np.ascontiguousarray(queries[block]), k)
        # Nothing that was not returned is above this.
        bound = similarities[:, -1].copy() if k < self.n else np.full(len(block), -np.inf, np.float32)
        similarities[ids == own[block][:, None]] = -np.inf
        cut = _cut(similarities, rounding_margin(self.dim), *limits)
        done = bound < cut
        for row in np.flatnonzero(done):
            found[block[row]] = np.sort(ids[row, similarities[row] >= cut[row]])
        return block[~done]


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


def _check_rows(name: str, rows: np.ndarray, dim: int | None) -> None:
    if rows.dtype != np.float32 or rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        wanted = f"[n, {'D' if dim is None else dim}]"
        raise ValueError(f"{name} is {rows.dtype} {list(rows.shape)}; it must be float32 {wanted} with unit rows")


def _to_gpu(index: Any) -> Any:
    if not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError(
            "the index is asked for on a GPU, but this FAISS is built for CPUs; install the package's 'gpu' extra, or "
            "leave the index on the CPU"
        )
    if faiss.get_num_gpus() < 1:
        raise RuntimeError("the index is asked for on a GPU, but FAISS sees none; leave the index on the CPU")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
