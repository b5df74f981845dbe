"""Runs the public consensus packages on one ensemble, in a Python of their own: `consensus_reference.py FOLDER`.

Reads FOLDER/in.npz (labels int[N, H], k) and writes FOLDER/out.npz: labels `l/package:method`, seconds
`s/package:method`. A package or method that cannot be imported or fails is left out and named on stderr.
"""

import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

# The packages build dense N x N matrices and write them as text: minutes beyond this.
LARGEST_DENSE = 5000


def cluster_ensembles(runs: Any, k: int) -> dict[str, Callable[[], Any]]:
    """`ClusterEnsembles` (tsano430): its solvers, one call each."""
    package = import_module("ClusterEnsembles")
    solvers = ["mcla"] if runs.shape[1] > LARGEST_DENSE else ["cspa", "hgpa", "mcla", "hbgf"]
    return {f"ClusterEnsembles:{s}": lambda s=s: package.cluster_ensembles(runs, nclass=k, solver=s) for s in solvers}


def cluster_ensembles_with_underscore(runs: Any, k: int) -> dict[str, Callable[[], Any]]:
    """`Cluster_Ensembles` (GGiecold), cited by the ICCE paper: its functions, as its own driver calls them."""
    package = import_module("Cluster_Ensembles.Cluster_Ensembles")
    tables = import_module("tables")
    name = str(Path.cwd() / "ensembles.h5")
    with tables.open_file(name, "w") as file:
        file.create_group(file.root, "consensus_group")
    package.store_hypergraph_adjacency(package.build_hypergraph_adjacency(runs), name)
    functions = ["HGPA", "MCLA"] if runs.shape[1] > LARGEST_DENSE else ["CSPA", "HGPA", "MCLA"]
    return {f"Cluster_Ensembles:{f.lower()}": lambda f=f: getattr(package, f)(name, runs, False, k) for f in functions}


def main() -> None:
    """Run what there is."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    with np.load(folder / "in.npz") as arrays:
        runs, k = arrays["labels"].T.astype(float), int(arrays["k"])
    found = {}
    for package in (cluster_ensembles, cluster_ensembles_with_underscore):
        try:
            calls = package(runs, k)
        except ImportError as reason:
            print(reason, file=sys.stderr)
            continue
        for name, call in calls.items():
            np.random.seed(0)
            start = time.perf_counter()
            try:
                label = np.asarray(call()).astype(np.int64)
            except Exception as reason:  # noqa: BLE001 - a foreign package may fail in any way; say so and go on
                print(f"{name}: {reason!r}", file=sys.stderr)
                continue
            found["s/" + name] = time.perf_counter() - start
            found["l/" + name] = label - label.min()
    np.savez(folder / "out.npz", **found)


if __name__ == "__main__":
    main()
