"""Candidate neighbours from FAISS, for the core to re-score and select: exact, or by inverted lists.

What `icce_ray.core.search.search_shard` asks of a proposer: an over-selection by a rigorous bound on the rounding
of a float32 dot product, so that after re-scoring nothing is missed of what was searched. FAISS fuses product and
selection, so no block of similarities is ever written to memory.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from icce_ray.core.neighbors import Limits
from icce_ray.core.products import rounding_margin

_SPARE = 8  # asked for beyond k, so that a row without ties needs one search
_BLOCK = 2**25  # answers of one search: 400 MB of similarities and ids
#: Of answers a query, and of inverted lists looked at, in FAISS on a GPU.
GPU_MAX = 2048
#: Images of one set of inverted lists. Not those of a shard: so the lists do not depend on the number of actors, and
#: k-means, which takes one thread, takes it a minute or two and not hours.
PARTITION_ROWS = 2**17
_SEED = 1234
#: Rows of the base that k-means learns from, for each list: FAISS's guideline is 30 to 256, and warns below 39.
_SAMPLE, _FEWEST = 64, 39
#: Queries that one thread searches at a time: always these together, so that no answer depends on the threads.
_PIECE = 64


class FaissCandidates:
    """An `IndexFlatIP` over `base`, float32 [n, D] with unit rows: exact.

    Args:
        base: the rows to search; copied into the index.
        gpu: hold the index on the first visible GPU.
        threads: of FAISS in this process from now on; by default as they are.

    Raises ValueError for rows of another type or shape, RuntimeError where a GPU is asked for and FAISS has none.
    """

    def __init__(self, base: np.ndarray, *, gpu: bool = False, threads: int | None = None) -> None:
        _check_rows("base", base, None)
        self.n, self.dim = base.shape
        self._max_k = min(GPU_MAX, self.n) if gpu else self.n
        self._expect_more = False
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        self._index: Any = _to_gpu(faiss.IndexFlatIP(self.dim)) if gpu else faiss.IndexFlatIP(self.dim)
        self._index.add(np.ascontiguousarray(base))

    def propose(self, queries: Tensor, own: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
        """Pairs (query, base row) that contain every pair the core's `select` can keep.

        `queries` are float32 [b, D], unit rows; `own` int64 [b] the base row that is the query itself, -1 where there
        is none, never a candidate. Ties at the k_max-th are all given, for the core to decide.

        Returns crow int64 [b + 1] and cols int64 [crow[-1]], ids ascending within a row, on the device of the queries.

        Raises ValueError for bad rows, and on a GPU when more than 2,048 answers a query are needed.
        """
        block = queries.cpu().numpy()
        _check_rows("queries", block, self.dim)
        rows, ids = self._candidates(block, own.cpu().numpy(), limits)
        crow = np.concatenate([[0], np.bincount(rows, minlength=len(block)).cumsum()])
        cols = ids[np.argsort(rows * self.n + ids)]
        return torch.from_numpy(crow).to(queries.device), torch.from_numpy(cols).to(queries.device)

    def _candidates(self, queries: np.ndarray, own: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """Candidates as two columns, the query and the base row, in any order.

        The k nearest of each query are asked for, and more where its candidates may lie beyond them.
        """
        enough = limits.k_max + 1 + _SPARE
        chosen = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        todo = np.arange(len(queries))
        k = min(enough if self._expect_more else limits.k_min + 1 + _SPARE, self._max_k)
        while len(todo) and k:
            unfinished = []
            for block in np.split(todo, range(max(1, _BLOCK // k), len(todo), max(1, _BLOCK // k))):
                done, row, ids = self._among_nearest(queries[block], own[block], k, limits)
                chosen.append((block[row], ids))
                unfinished.append(block[~done])
            todo = np.concatenate(unfinished)
            if k < enough:  # where most queries want more, those of the next block will
                self._expect_more = 2 * len(todo) > len(queries)
            if len(todo) and k == self._max_k:
                raise ValueError(
                    f"FAISS gives at most {k} answers a query on a GPU, {len(todo)} queries need more "
                    f"(k_max {limits.k_max}, ties included); lower k_max, or use the index on the CPU or the core's "
                    "own search"
                )
            k = min(max(2 * k, enough), self._max_k)
        rows, ids = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return rows, ids

    def _among_nearest(
        self, queries: np.ndarray, own: np.ndarray, k: int, limits: Limits
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which queries' candidates are all among their k nearest, bool [b]; and these, as `_candidates` gives them."""
        similarities, ids = self._nearest(np.ascontiguousarray(queries), k)
        # Nothing that was not returned is above this.
        bound = similarities[:, -1].copy() if k < self.n else np.full(len(queries), -np.inf, np.float32)
        similarities[ids == own[:, None]] = -np.inf
        ordered = torch.from_numpy(-np.sort(-similarities, axis=1))
        # Each score is within the margin of FAISS's, and so is the lowest that is kept.
        cut = np.maximum(limits.lowest_kept(ordered).numpy() - 2 * rounding_margin(self.dim), -2.0)
        done = bound < cut
        kept = (similarities >= cut[:, None]) & done[:, None]
        return done, kept.nonzero()[0], ids[kept]

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and ids [b, k], descending; ids of -1, below every similarity, where there are not so many."""
        return self._index.search(queries, k)


class InvertedLists(FaissCandidates):
    """An `IndexIVFFlat` by inner product over `base`, float32 [n, D] with unit rows: a part of it is looked at.

    The base is cut into lists by k-means; a query sees the lists whose centres are nearest. Within these nothing is
    missed; how much lies in other lists is for a measurement of the recall to say. K-means has a fixed seed and sample
    and runs on one thread, since with several FAISS rounds, and soon chooses, differently; searches share the threads
    by pieces of a fixed size. So the same base and queries give the same pairs for any number of threads. On a GPU
    FAISS trains and searches there.

    Args:
        base: the rows to search; copied into the index.
        lists: how many lists; by default `default_lists`.
        probes: how many of them a query sees, by default `default_probes`; may be changed at any time.
        gpu: hold the index on the first visible GPU.
        threads: that search on a CPU.

    Raises ValueError for rows of another type or shape and for more lists than rows, RuntimeError where a GPU is asked
    for and FAISS has none.
    """

    def __init__(
        self,
        base: np.ndarray,
        *,
        lists: int | None = None,
        probes: int | None = None,
        gpu: bool = False,
        threads: int = 1,
    ) -> None:
        _check_rows("base", base, None)
        self.n, self.dim = base.shape
        self.lists = default_lists(self.n) if lists is None else lists
        self.probes = default_probes(self.lists) if probes is None else min(probes, self.lists)
        if not 1 <= self.lists <= max(1, self.n):
            raise ValueError(f"{self.lists} inverted lists of {self.n} images; use 1 to {self.n}, or leave it open")
        self._gpu, self._expect_more = gpu, False
        self._max_k = min(GPU_MAX, self.n) if gpu else self.n
        self._looked_at = self.probes
        self._pool = ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))
        self._index = self._built(base) if gpu else self._pool.submit(self._built, base).result()

    def _built(self, base: np.ndarray) -> Any:
        """The trained and filled index."""
        index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(self.dim), self.dim, self.lists, faiss.METRIC_INNER_PRODUCT)
        if self._gpu:
            index = _to_gpu(index)
        index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _SEED, _SAMPLE, 1
        rows = np.ascontiguousarray(base)
        if len(rows):
            index.train(rows)
            index.add(rows)
        return index

    def _candidates(self, queries: np.ndarray, own: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """As an exact index among the lists looked at; queries that find fewer than k_min there see more lists."""
        wanted = np.minimum(limits.k_min, self.n - (own >= 0))
        chosen, todo = [], np.arange(len(queries))
        most = min(self.lists, GPU_MAX) if self._gpu else self.lists
        self._looked_at = min(self.probes, most)
        while True:
            rows, ids = super()._candidates(queries[todo], own[todo], limits)
            short = np.bincount(rows, minlength=len(todo)) < wanted[todo]
            chosen.append((todo[rows[~short[rows]]], ids[~short[rows]]))
            if not short.any():
                break
            if self._looked_at == most:
                raise ValueError(
                    f"{int(short.sum())} queries find fewer than k_min = {limits.k_min} images in {most} inverted "
                    "lists, the most that FAISS looks at on a GPU; use fewer lists, the CPU or an exact search"
                )
            todo, self._looked_at = todo[short], min(2 * self._looked_at, most)
        rows, ids = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return rows, ids

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._gpu:
            self._index.nprobe = self._looked_at
            return self._index.search(queries, k)
        similarities = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        parameters: Any = faiss.SearchParametersIVF
        seen = parameters(nprobe=self._looked_at)

        def search(start: int) -> None:
            piece = slice(start, start + _PIECE)
            self._index.search(queries[piece], k, params=seen, D=similarities[piece], I=ids[piece])

        list(self._pool.map(search, range(0, len(queries), _PIECE)))
        return similarities, ids


def default_lists(n: int) -> int:
    """4 times the square root of the rows (FAISS's guideline), where each list has enough of them for k-means."""
    return max(1, min(round(4 * math.sqrt(n)), n // _FEWEST))


def default_probes(lists: int) -> int:
    """An eighth of the lists, at least 16: a sixteenth was seen to miss the recall of 0.95 that is asked for."""
    return min(lists, max(16, lists // 8))


def _check_rows(name: str, rows: np.ndarray, dim: int | None) -> None:
    """Raise ValueError unless `rows` is float32 [n, dim], of any width where `dim` is None."""
    if rows.dtype != np.float32 or rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        wanted = f"[n, {'D' if dim is None else dim}]"
        raise ValueError(f"{name} is {rows.dtype} {list(rows.shape)}; it must be float32 {wanted} with unit rows")


def _to_gpu(index: Any) -> Any:
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
