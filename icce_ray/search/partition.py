"""Partitioners for the consensus: graphs by METIS (pymetis), hypergraphs by Mt-KaHyPar (mtkahypar).

Both are deterministic: the same input and seed give the same parts. METIS is so only while no other thread of the
process draws from the C library's `rand`, which it seeds: beside Ray use `PARTITIONERS_BESIDE_RAY`.
"""

import functools
import io
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pymetis
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.consensus.clusters import Partitioners

# METIS sums edge weights in 64 bits while it coarsens; this leaves room for every sum it forms.
_LARGEST_WEIGHT_SUM = 2**60
# Float weights keep six digits: enough to rank Jaccard indices of any two clusters.
_FLOAT_SCALE = 1_000_000
_MTKAHYPAR_LOCK = threading.Lock()


def metis_graph(
    edges: sparse.csr_matrix, vertex_weights: NDArray[np.int64], n_parts: int, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Cut a graph with METIS, multilevel k-way (Karypis & Kumar 1998). Arguments as of `Partitioner`.

    Edge weights that are whole numbers are used as they are, others are scaled to whole numbers of six digits. METIS
    may leave a part empty. Raises ValueError for input that it would crash on or misread.
    """
    return _cut(_metis_input(edges, vertex_weights, n_parts, imbalance), n_parts, seed, imbalance)


def metis_graph_apart(
    edges: sparse.csr_matrix, vertex_weights: NDArray[np.int64], n_parts: int, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """`metis_graph` in a process of its own, so that nobody else draws from its random numbers.

    In a process that is connected to Ray other threads draw from `rand` as well: 4 of 6,000 cuts of 0.02 s came out
    differently there, none of 1,200 without Ray. A process that does nothing else always gives the same parts. It costs
    the start of an interpreter, half a second. Raises RuntimeError, with its output, if that process fails.
    """
    sent = io.BytesIO()
    np.savez(sent, allow_pickle=False, **_metis_input(edges, vertex_weights, n_parts, imbalance))
    child = subprocess.run(
        [sys.executable, "-m", "icce_ray.search.partition", str(n_parts), str(seed), repr(float(imbalance))],
        input=sent.getbuffer(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # of a worker it is not that of the environment
        check=False,
    )
    if child.returncode:
        message = child.stderr.decode(errors="replace").strip()
        raise RuntimeError(
            f"METIS ended with status {child.returncode} on {len(vertex_weights)} vertices: {message[-2000:]}"
        )
    return np.load(io.BytesIO(child.stdout), allow_pickle=False)


def _main(n_parts: str, seed: str, imbalance: str) -> None:
    """The process of `metis_graph_apart`."""
    given = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    sink = io.BytesIO()
    np.save(sink, _cut(dict(given), int(n_parts), int(seed), float(imbalance)), allow_pickle=False)
    sys.stdout.buffer.write(sink.getbuffer())


def _metis_input(
    edges: sparse.csr_matrix, vertex_weights: NDArray[np.int64], n_parts: int, imbalance: float
) -> dict[str, NDArray[np.int64]]:
    """METIS's arrays: where the neighbours of each vertex start, these, and whole weights. Raises ValueError."""
    n = edges.indptr.size - 1
    vertices = _vertex_weights(vertex_weights, n, n_parts, imbalance)
    if edges.shape != (n, n):
        raise ValueError(f"the graph has shape {edges.shape}; give a square symmetric matrix")
    row = np.repeat(np.arange(n), np.diff(edges.indptr))
    kept = (edges.indices != row) & (edges.data != 0)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=n))])
    neighbours = edges.indices[kept].astype(np.int64)
    if not np.array_equal(np.bincount(neighbours, minlength=n), np.diff(starts)):
        raise ValueError("the graph is not symmetric: rows and columns differ in length; give both directions")
    weights = _whole(np.asarray(edges.data[kept], dtype=np.float64))
    return {"starts": starts, "neighbours": neighbours, "vertices": vertices, "weights": weights}


def _cut(given: dict[str, NDArray[np.int64]], n_parts: int, seed: int, imbalance: float) -> NDArray[np.int32]:
    """The part of each vertex, int32[n], of `_metis_input`."""
    if n_parts == 1 or given["weights"].size == 0:
        # Without edges nothing can be cut: deal the vertices out, METIS refuses such a graph.
        return (np.arange(given["vertices"].size) % n_parts).astype(np.int32)
    _, part = pymetis.part_graph(
        n_parts,
        pymetis.CSRAdjacency(given["starts"], given["neighbours"]),
        vweights=given["vertices"],
        eweights=given["weights"],
        options=pymetis.Options(seed=int(seed) % 2**31, ufactor=max(1, round(1000 * imbalance))),
        # Recursive bisection, pymetis' choice up to 8 parts, applies the tolerance at every level, so that a
        # loose one multiplies: it lost ANMI on every ensemble measured (jobs/bench/RESULTS.md).
        recursive=False,
    )
    return np.asarray(part, dtype=np.int32)


def mtkahypar_hypergraph(
    edges: sparse.csr_matrix, vertex_weights: NDArray[np.int64], n_parts: int, seed: int, *, imbalance: float = 0.05
) -> NDArray[np.int32]:
    """Cut a hypergraph with Mt-KaHyPar's deterministic preset, minimising sum_e (pieces of e - 1).

    METIS cannot cut hypergraphs, and hMETIS, which Strehl & Ghosh used, is not free software. Arguments as of
    `Partitioner`; hyperedges without a vertex are left out. Raises ValueError for input that the library would crash on
    or misread.
    """
    import mtkahypar

    n = edges.get_shape()[1]
    vertices = _vertex_weights(vertex_weights, n, n_parts, imbalance)
    edges.check_format(full_check=True)
    if n_parts == 1 or edges.nnz == 0:
        return (np.arange(n) % n_parts).astype(np.int32)
    pins = [pins.tolist() for pins in np.split(edges.indices, edges.indptr[1:-1]) if pins.size]
    with _MTKAHYPAR_LOCK:  # the seed belongs to the process, not to the call
        library = _mtkahypar()
        mtkahypar.set_seed(int(seed) % 2**31)
        context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
        context.set_partitioning_parameters(n_parts, float(imbalance), mtkahypar.Objective.KM1)
        context.logging = False
        graph = library.create_hypergraph(context, n, len(pins), pins, vertices.tolist(), [1] * len(pins))
        return np.asarray(graph.partition(context).get_partition(), dtype=np.int32)


@functools.cache
def _mtkahypar() -> Any:
    """The library's initialiser, of one thread: a second one in the same process is an error."""
    import mtkahypar

    return mtkahypar.initialize(1, False)


def _vertex_weights(weights: NDArray[np.int64], n: int, n_parts: int, imbalance: float) -> NDArray[np.int64]:
    vertices = np.ascontiguousarray(weights, dtype=np.int64)
    if vertices.shape != (n,):
        raise ValueError(f"{n} vertices have vertex weights of shape {vertices.shape}; give one weight per vertex")
    if not 1 <= n_parts <= n:
        raise ValueError(f"{n} vertices cannot be cut into {n_parts} parts; ask for 1 to {n}")
    if vertices.min() < 0 or vertices.sum() == 0:
        raise ValueError(f"vertex weights go from {vertices.min()} to {vertices.max()}; give >= 0, not all zero")
    if not 0 < imbalance < 1000:
        raise ValueError(f"imbalance is {imbalance}; give a share above 0, such as 0.05 for 5 %")
    return vertices


def _whole(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positive whole weights for METIS, in the same proportions."""
    if weights.size == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError(f"edge weights go from {weights.min()} to {weights.max()}; give finite values >= 0")
    total, scale = float(weights.sum()), 1.0
    if not np.array_equal(weights, np.rint(weights)):
        scale = _FLOAT_SCALE / float(weights.max())
    scale = min(scale, _LARGEST_WEIGHT_SUM / total)
    return np.maximum(1, np.rint(weights * scale)).astype(np.int64)


PARTITIONERS = Partitioners(metis_graph, mtkahypar_hypergraph)
PARTITIONERS_BESIDE_RAY = Partitioners(metis_graph_apart, mtkahypar_hypergraph)

if __name__ == "__main__":
    _main(*sys.argv[1:])
