"""Graph and hypergraph partitioners for the consensus: METIS through pymetis, Mt-KaHyPar through mtkahypar.

Both are deterministic: the same input and seed give the same parts, on any number of threads. METIS is so only while no
other thread of the process draws from the C library's `rand`: beside Ray use `partition_apart`.
"""

import threading
from typing import Any

import mtkahypar
import numpy as np
import pymetis
from numpy.typing import NDArray
from scipy import sparse

# METIS sums edge weights in 64 bits while it coarsens; this leaves room for every sum it forms.
_LARGEST_WEIGHT_SUM = 2**60
# Float weights keep six digits: enough to rank Jaccard indices of any two clusters.
_FLOAT_SCALE = 1_000_000
_MTKAHYPAR_LOCK = threading.Lock()
_MTKAHYPAR: list[Any] = []


def metis_graph(
    weights: sparse.csr_matrix,
    vertex_weights: NDArray[np.int64],
    n_parts: int,
    seed: int,
    *,
    imbalance: float = 0.05,
) -> NDArray[np.int32]:
    """Cut a graph with METIS, multilevel k-way (Karypis & Kumar 1998).

    Args:
        weights: csr [n, n], symmetric, values >= 0; the diagonal is ignored. Whole numbers are used as they are,
            other weights are scaled to whole numbers of six digits.
        vertex_weights: int[n] >= 0, not all zero.
        n_parts: 1 <= n_parts <= n.
        seed: same seed and input, same parts.
        imbalance: how far, relatively, a part may exceed the mean weight, > 0 (METIS: ufactor / 1000).

    Returns:
        int32[n] in [0, n_parts); METIS may leave a part empty.

    Raises:
        ValueError: input that METIS would crash on or misread.
    """
    n = weights.indptr.size - 1
    vertices = _vertex_weights(vertex_weights, n, n_parts, imbalance)
    if weights.shape != (n, n):
        raise ValueError(f"the graph has shape {weights.shape}; give a square symmetric matrix")
    row = np.repeat(np.arange(n), np.diff(weights.indptr))
    kept = (weights.indices != row) & (weights.data != 0)
    values = _whole(np.asarray(weights.data[kept], dtype=np.float64))
    starts = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=n))])
    neighbours = weights.indices[kept].astype(np.int64)
    if not np.array_equal(np.bincount(neighbours, minlength=n), np.diff(starts)):
        raise ValueError("the graph is not symmetric: rows and columns differ in length; give both directions")
    if n_parts == 1 or values.size == 0:
        # Without edges nothing can be cut: deal the vertices out, METIS refuses such a graph.
        return (np.arange(n) % n_parts).astype(np.int32)
    options = pymetis.Options(seed=int(seed) % 2**31, ufactor=max(1, round(1000 * imbalance)))
    _, part = pymetis.part_graph(
        n_parts,
        pymetis.CSRAdjacency(starts, neighbours),
        vweights=vertices,
        eweights=values,
        options=options,
        # Recursive bisection, pymetis' choice up to 8 parts, applies the tolerance at every level, so that a
        # loose one multiplies: it lost ANMI on every ensemble measured (jobs/bench/RESULTS.md).
        recursive=False,
    )
    return np.asarray(part, dtype=np.int32)


def mtkahypar_hypergraph(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int64],
    edge_weights: NDArray[np.int64],
    vertex_weights: NDArray[np.int64],
    n_parts: int,
    seed: int,
    *,
    imbalance: float = 0.05,
    threads: int = 1,
) -> NDArray[np.int32]:
    """Cut a hypergraph with Mt-KaHyPar's deterministic preset, minimising sum_e w_e (pieces of e - 1).

    METIS cannot cut hypergraphs, and hMETIS, which Strehl & Ghosh used, is not free software.

    Args:
        indptr: int[E + 1]; hyperedge e holds `indices[indptr[e]:indptr[e + 1]]`, empty ones are skipped.
        indices: int[pins], vertex numbers in [0, n).
        edge_weights: int[E] > 0.
        vertex_weights: int[n] >= 0, not all zero.
        n_parts: 1 <= n_parts <= n.
        seed: same seed and input, same parts.
        imbalance: how far, relatively, a part may exceed the mean weight, > 0.
        threads: of the whole process: the library starts its threads once, so the first call decides. The
            result does not depend on it.

    Returns:
        int32[n] in [0, n_parts).

    Raises:
        ValueError: input that the library would crash on or misread.
    """
    n = len(vertex_weights)
    vertices = _vertex_weights(vertex_weights, n, n_parts, imbalance)
    indptr, indices, edge_weights = (np.asarray(values) for values in (indptr, indices, edge_weights))
    _check_hyperedges(indptr, indices, edge_weights, n)
    if n_parts == 1:
        return np.zeros(n, dtype=np.int32)
    used = np.flatnonzero(np.diff(indptr) > 0)
    if used.size == 0:
        return (np.arange(n) % n_parts).astype(np.int32)
    pins = [pins.tolist() for pins in np.split(indices, indptr[1:-1]) if pins.size]
    with _MTKAHYPAR_LOCK:  # the seed belongs to the process, not to the call
        library = _start(threads)
        mtkahypar.set_seed(int(seed) % 2**31)
        context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
        context.set_partitioning_parameters(n_parts, float(imbalance), mtkahypar.Objective.KM1)
        context.logging = False
        graph = library.create_hypergraph(context, n, len(pins), pins, vertices.tolist(), edge_weights[used].tolist())
        return np.asarray(graph.partition(context).get_partition(), dtype=np.int32)


def _start(threads: int) -> Any:
    """The library's initialiser, made by the first call: a second one in the same process is an error."""
    if not _MTKAHYPAR:
        _MTKAHYPAR.append(mtkahypar.initialize(threads, False))
    return _MTKAHYPAR[0]


def _vertex_weights(weights: NDArray[np.int64], n: int, n_parts: int, imbalance: float) -> NDArray[np.int64]:
    vertices = np.ascontiguousarray(weights, dtype=np.int64)
    if vertices.shape != (n,):
        raise ValueError(f"{n} vertices have vertex weights of shape {vertices.shape}; give one weight a vertex")
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


def _check_hyperedges(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], edge_weights: NDArray[np.int64], n: int
) -> None:
    if edge_weights.shape != (indptr.size - 1,) or (edge_weights.size and edge_weights.min() <= 0):
        raise ValueError(f"{indptr.size - 1} hyperedges need as many weights > 0; got shape {edge_weights.shape}")
    if indptr[0] != 0 or indptr[-1] != indices.size or (np.diff(indptr) < 0).any():
        raise ValueError(f"indptr must rise from 0 to the {indices.size} pins; it goes {indptr[0]} to {indptr[-1]}")
    if indices.size and (indices.min() < 0 or indices.max() >= n):
        raise ValueError(f"pins span {indices.min()} to {indices.max()}, but vertices are 0 to {n - 1}")
