"""Candidate neighbours from FAISS's inverted file: a part of the base is looked at, for bases too large for all of it.

The base is cut into lists by k-means; a query sees the lists whose centres are nearest. What it sees is over-selected
by the bound of `faiss_index`, so within these lists nothing is missed; how much lies in other lists is for a
measurement of the recall to tell.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np

from icce_ray.adapters.faiss_index import GPU_MAX, FaissCandidates, check_rows, to_gpu

#: Images of one set of inverted lists. Not those of a shard: so the lists do not depend on the number of actors, and
#: k-means, which takes one thread, takes it a minute or two and not hours.
PARTITION_ROWS = 2**17
_SEED = 1234
#: Rows of the base that k-means learns from, for each list: FAISS's guideline is 30 to 256, and warns below 39.
_SAMPLE, _FEWEST = 64, 39
#: Queries that one thread searches at a time: always these together, so that no answer depends on the threads.
_PIECE = 64


def default_lists(n: int) -> int:
    """4 times the square root of the rows (FAISS's guideline), where each list has enough of them for k-means."""
    return max(1, min(round(4 * math.sqrt(n)), n // _FEWEST))


def default_probes(lists: int) -> int:
    """An eighth of the lists, at least 16: a sixteenth was seen to miss the recall of 0.95 that is asked for."""
    return min(lists, max(16, lists // 8))


class InvertedLists(FaissCandidates):
    """An `IndexIVFFlat` by inner product over `base`, float32 [n, D] with unit rows.

    K-means has a fixed seed and sample and runs on one thread, since with several FAISS rounds, and soon chooses,
    differently; searches share the threads by pieces of a fixed size. So the same base and queries give the same pairs
    for any number of threads. On a GPU FAISS trains and searches there.

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
        check_rows("base", base, None)
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
            index = to_gpu(index)
        index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _SEED, _SAMPLE, 1
        rows = np.ascontiguousarray(base)
        if len(rows):
            index.train(rows)
            index.add(rows)
        return index

    def _found(
        self, queries: np.ndarray, own: np.ndarray, limits: tuple[float, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As an exact index among the lists looked at; queries that find fewer than k_min there see more lists."""
        wanted = np.minimum(limits[1], self.n - (own >= 0))
        settled = []
        todo = np.arange(len(queries))
        most = min(self.lists, GPU_MAX) if self._gpu else self.lists
        self._looked_at = min(self.probes, most)
        while True:
            rows, ids = super()._found(queries[todo], own[todo], limits)
            counts = np.bincount(rows, minlength=len(todo))
            short = counts < wanted[todo]
            kept = ~short[rows]
            settled.append((todo[rows[kept]], ids[kept]))
            if not short.any():
                break
            if self._looked_at == most:
                raise ValueError(
                    f"{int(short.sum())} queries find fewer than k_min = {limits[1]} images in {most} inverted lists, "
                    "the most that FAISS looks at on a GPU; use fewer lists, the CPU or an exact search"
                )
            todo, self._looked_at = todo[short], min(2 * self._looked_at, most)
        rows, ids = (np.concatenate(column) for column in zip(*settled, strict=True))
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
