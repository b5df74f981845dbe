"""Candidate neighbours from FAISS, for the core to re-score and select: exact, or by inverted lists.

What `icce_ray.core.search.search_shard` asks of a proposer: an over-selection by a rigorous bound on the rounding
of a float32 dot product, so that after re-scoring nothing is missed of what was searched. FAISS fuses product and
selection, so no block of similarities is ever written to memory. It comes with the extras `faiss` (CPUs) and `gpu`.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icce_ray.core.neighbors import Limits
from icce_ray.core.products import rounding_margin

_SPARE = 8  # asked for beyond k, so that a row without ties needs one search
_BLOCK = 2**25  # answers of one search: 400 MB of similarities and ids
#: Of answers a query, and of inverted lists looked at, in FAISS on a GPU; and neighbours that these are enough for.
GPU_MAX = 2048
GPU_K_MAX = GPU_MAX - 1 - _SPARE
#: Images of one set of inverted lists. Not those of a shard: so the lists do not depend on the number of actors, and
#: k-means, which takes one thread, takes it a minute or two and not hours.
PARTITION_ROWS = 2**17
_SEED = 1234
#: Rows of the base that k-means learns from, for each list: FAISS's guideline is 30 to 256, and warns below 39.
_SAMPLE, _FEWEST = 64, 39
#: Queries that one thread searches at a time: always these together, so that no answer depends on the threads.
_PIECE = 64


def check_faiss(*, gpu: bool) -> None:
    """Raise RuntimeError with a remedy unless FAISS is installed here, with `gpu` built for GPUs and seeing one."""
    library = _library()
    if gpu and not hasattr(library, "StandardGpuResources"):
        raise RuntimeError(
            "the index is asked for on a GPU, but this FAISS is built for CPUs; put another in its place (pip "
            "uninstall faiss-cpu; pip install 'icce-ray[gpu]'), or take neighbors.search=torch"
        )
    if gpu and library.get_num_gpus() < 1:
        raise RuntimeError(
            "the index is asked for on a GPU, but FAISS sees none: it may be of another CUDA than the driver; take "
            "neighbors.search=torch, or resources.device=cpu"
        )


def check_k_max(k_max: int, n: int) -> None:
    """Raise ValueError for more neighbours among `n` images than FAISS gives on a GPU."""
    if k_max > GPU_K_MAX and n > GPU_MAX:
        raise ValueError(
            f"k_max = {k_max:,} (by default images over clusters): FAISS gives at most {GPU_K_MAX:,} neighbours on a "
            f"GPU; set neighbors.k_max to at most {GPU_K_MAX}, or neighbors.search=torch, which is exact too, or "
            "resources.device=cpu"
        )


def _library() -> Any:
    """FAISS, which most runs do without. Raises RuntimeError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise RuntimeError(
            f"neighbors.search = faiss or ivf needs FAISS, but it cannot be imported ({error}); pip install "
            "'icce-ray[faiss]', on machines with GPUs 'icce-ray[gpu]' in its place, or take neighbors.search=torch"
        ) from error
    return faiss


class FaissCandidates:
    """An `IndexFlatIP` over `base`, float32 [n, D] with unit rows: exact.

    Args:
        base: the rows to search, copied into the index; must stay as they are.
        gpu: hold the index on the first visible GPU.
        threads: of FAISS in this process from now on; by default as they are.

    Raises ValueError for rows of another type or shape, RuntimeError as `check_faiss`.
    """

    def __init__(self, base: np.ndarray | Tensor, *, gpu: bool = False, threads: int | None = None) -> None:
        faiss, rows = _library(), self._take(base, gpu)
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        self._index: Any = _to_gpu(faiss.IndexFlatIP(self.dim)) if gpu else faiss.IndexFlatIP(self.dim)
        self._index.add(rows)

    def _take(self, base: np.ndarray | Tensor, gpu: bool) -> np.ndarray:
        """Keep the base as it is; the same for FAISS."""
        rows = base if isinstance(base, np.ndarray) else base.cpu().numpy()
        _check_rows("base", rows, None)
        self.n, self.dim = rows.shape
        self._base = torch.as_tensor(base)
        self._max_k = min(GPU_MAX, self.n) if gpu else self.n
        self._expect_more = False
        return np.ascontiguousarray(rows)

    def propose(self, queries: Tensor, own: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
        """Pairs (query, base row) that contain every pair the core's `select` can keep.

        `queries` are float32 [b, D], unit rows; `own` int64 [b] the base row that is the query itself, -1 where there
        is none, never a candidate. Ties at the k_max-th are all given, for the core to decide.

        Returns crow int64 [b + 1] and cols int64 [crow[-1]], ids ascending within a row, on the device of the queries.

        Raises ValueError for bad rows.
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
            if len(todo) and k == self._max_k:  # on a GPU, near-ties at the last place
                rows, ids = self._by_product(queries[todo], own[todo], limits)
                chosen.append((todo[rows], ids))
                break
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

    def _by_product(self, queries: np.ndarray, own: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """`_candidates` of queries that FAISS cannot answer, by products with the whole base."""
        chosen, step = [], max(1, _BLOCK // self.n)
        for start in range(0, len(queries), step):
            block = torch.from_numpy(queries[start : start + step]).to(self._base.device)
            similarities = block @ self._base.T
            inside = torch.from_numpy(np.flatnonzero(own[start : start + step] >= 0))
            similarities[inside, torch.from_numpy(own[start : start + step])[inside]] = -torch.inf
            best = torch.topk(similarities, min(limits.k_max, self.n), dim=1).values
            cut = (limits.lowest_kept(best) - 2 * rounding_margin(self.dim)).clamp_min(-2.0)
            row, ids = (similarities >= cut[:, None]).nonzero(as_tuple=True)
            chosen.append((row.cpu().numpy() + start, ids.cpu().numpy()))
        rows, ids = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return rows, ids

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
        base: the rows to search, copied into the index; must stay as they are.
        lists: how many lists; by default `default_lists`.
        probes: how many of them a query sees, by default `default_probes`; may be changed at any time.
        gpu: hold the index on the first visible GPU.
        threads: that search on a CPU.

    Raises ValueError for rows of another type or shape and for more lists than rows, RuntimeError as `check_faiss`.
    """

    def __init__(
        self,
        base: np.ndarray | Tensor,
        *,
        lists: int | None = None,
        probes: int | None = None,
        gpu: bool = False,
        threads: int = 1,
    ) -> None:
        faiss, rows = _library(), self._take(base, gpu)
        self.lists = default_lists(self.n) if lists is None else lists
        self.probes = default_probes(self.lists) if probes is None else min(probes, self.lists)
        if not 1 <= self.lists <= max(1, self.n):
            raise ValueError(f"{self.lists} inverted lists of {self.n} images; use 1 to {self.n}, or leave it open")
        self._gpu, self._looked_at = gpu, self.probes
        self._pool = ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))
        self._index = self._built(rows) if gpu else self._pool.submit(self._built, rows).result()

    def _built(self, rows: np.ndarray) -> Any:
        """The trained and filled index."""
        faiss = _library()
        index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(self.dim), self.dim, self.lists, faiss.METRIC_INNER_PRODUCT)
        if self._gpu:
            index = _to_gpu(index)
        index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _SEED, _SAMPLE, 1
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
            todo = todo[short]
            if self._looked_at == most:  # on a GPU, which looks at no more
                rows, ids = self._by_product(queries[todo], own[todo], limits)
                chosen.append((todo[rows], ids))
                break
            self._looked_at = min(2 * self._looked_at, most)
        rows, ids = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return rows, ids

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._gpu:
            self._index.nprobe = self._looked_at
            return self._index.search(queries, k)
        similarities = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        parameters: Any = _library().SearchParametersIVF
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
    check_faiss(gpu=True)
    return _library().index_cpu_to_gpu(_gpu_resources(), 0, index)


@functools.cache
def _gpu_resources() -> Any:
    """FAISS's memory on the GPU, 1.5 GB: once in a process, however many indexes it has."""
    return _library().StandardGpuResources()
