"""METIS in a process of its own, so that nobody else draws from its random numbers.

METIS seeds the C library's `rand`, which belongs to the whole process. In one that is connected to Ray other threads
draw from it as well: 4 of 6,000 cuts of 0.02 s came out differently there, none of 1,200 without Ray. A process that
does nothing else gives the same parts for the same seed, always. It costs the start of an interpreter, half a second.
"""

import io
import os
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_REFUSED = 3  # exit status: the input was refused, and standard error says why


def metis_graph_apart(
    weights: sparse.csr_matrix,
    vertex_weights: NDArray[np.int64],
    n_parts: int,
    seed: int,
    *,
    imbalance: float = 0.05,
) -> NDArray[np.int32]:
    """`partition.metis_graph` in another process: same arguments, parts and ValueErrors.

    Raises RuntimeError, with what the process said, if it ended otherwise.
    """
    sent = io.BytesIO()
    csr = {"data": weights.data, "indices": weights.indices, "indptr": weights.indptr, "shape": weights.shape}
    np.savez(sent, **csr, vertices=vertex_weights, numbers=[n_parts, seed], imbalance=imbalance)
    child = subprocess.run(
        [sys.executable, "-m", "icce_ray.adapters.partition_apart"],
        input=sent.getbuffer(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # of a worker it is not that of the environment
        check=False,
    )
    if child.returncode == 0:
        return np.load(io.BytesIO(child.stdout), allow_pickle=False)
    said = child.stderr.decode(errors="replace").strip()
    if child.returncode == _REFUSED:
        raise ValueError(said)
    raise RuntimeError(f"METIS ended with status {child.returncode} on {len(vertex_weights)} vertices: {said[-2000:]}")


def _main() -> int:
    from icce_ray.adapters.partition import metis_graph

    given = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    weights = sparse.csr_matrix((given["data"], given["indices"], given["indptr"]), shape=tuple(given["shape"]))
    n_parts, seed = given["numbers"].tolist()
    try:
        parts = metis_graph(weights, given["vertices"], n_parts, seed, imbalance=float(given["imbalance"]))
    except ValueError as error:
        sys.stderr.write(str(error))
        return _REFUSED
    sink = io.BytesIO()
    np.save(sink, parts, allow_pickle=False)
    sys.stdout.buffer.write(sink.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
