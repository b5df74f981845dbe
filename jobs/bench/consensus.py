"""Consensus on noisy ensembles: our methods beside the public packages they are usually run with.

    python jobs/bench/consensus.py [--reference-python PATH] [--quick]

PATH is a Python that can import `ClusterEnsembles` (tsano430) and/or `Cluster_Ensembles` (GGiecold); whichever it
can is run in a subprocess on the same labels, so that this project depends on neither.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import header, options, row
from numpy.typing import NDArray

from icce_ray.core.consensus import METHODS, consensus
from icce_ray.core.metrics import accuracy, head_contingency, nmi
from icce_ray.search.partition import PARTITIONERS

REFERENCE = Path(__file__).with_name("consensus_reference.py")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Ensemble:
    """Heads made from a known clustering: permuted, merged and split, flipped."""

    n: int
    k: int
    n_heads: int
    flip: float
    change: str = "none"
    ratio: float = 1.0
    """Largest class over smallest."""

    def __str__(self) -> str:
        sizes = "" if self.ratio == 1 else f", sizes {self.ratio:.0f}:1"
        return f"N={self.n} K={self.k} H={self.n_heads}, {self.flip:.0%} flipped, {self.change}{sizes}"

    def make(self, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Labels int32[N, H] and truth int64[N]."""
        rng = np.random.default_rng(seed)
        share = np.geomspace(self.ratio, 1, self.k)
        truth = rng.choice(self.k, size=self.n, p=share / share.sum())
        truth[: self.k] = np.arange(self.k)
        labels = np.empty((self.n, self.n_heads), dtype=np.int32)
        for head in range(self.n_heads):
            label = rng.permutation(self.k)[truth]
            if self.change == "merged+split":
                a, b, c = rng.choice(self.k, 3, replace=False)
                label[label == a] = b
                label[(label == c) & (rng.random(self.n) < 0.5)] = a
            flipped = rng.random(self.n) < self.flip
            label[flipped] = rng.integers(0, self.k, flipped.sum())
            labels[:, head] = label
        return labels, truth


QUICK = [Ensemble(1000, 5, 10, flip) for flip in (0.1, 0.2, 0.3)]
ENSEMBLES = [
    *QUICK,
    *(Ensemble(1000, 5, 10, flip, "merged+split") for flip in (0.1, 0.2, 0.3)),
    *(Ensemble(2000, 10, 20, flip, "merged+split") for flip in (0.1, 0.2, 0.3)),
    *(Ensemble(2000, 10, 20, flip, "merged+split", ratio=10) for flip in (0.1, 0.2, 0.3)),
    *(Ensemble(3000, 20, 50, flip, "merged+split") for flip in (0.1, 0.2, 0.3)),
    Ensemble(3000, 50, 20, 0.2, "merged+split"),
    Ensemble(20000, 10, 50, 0.2, "merged+split"),
]


def ours(labels: NDArray[np.int32], k: int) -> dict[str, tuple[NDArray[np.int32], float]]:
    """Labels and seconds of each method, and of the whole consensus as "kept"."""
    found = {}
    for method in METHODS:
        start = time.perf_counter()
        label = consensus(labels, k, PARTITIONERS, methods=(method,), max_votes=0).label
        found[method] = (label, time.perf_counter() - start)
    start = time.perf_counter()
    found["kept"] = (consensus(labels, k, PARTITIONERS).label, time.perf_counter() - start)
    return found


def reference(python: str, labels: NDArray[np.int32], k: int) -> dict[str, tuple[NDArray[np.int64], float]]:
    """Labels and seconds by "package:method", from a Python that has the packages."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "in.npz", labels=labels, k=k)
        command = [python, str(REFERENCE), folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        output = Path(folder) / "out.npz"
        if not output.exists():
            raise SystemExit(f"{python} wrote no result; it ended with {done.returncode}:\n{done.stderr[-2000:]}")
        with np.load(output) as arrays:
            seconds = {name: float(arrays[name]) for name in arrays.files if name.startswith("s/")}
            return {name[2:]: (arrays["l/" + name[2:]], s) for name, s in seconds.items()}


def main() -> None:
    """Print the table; exit with 1 if a package's best ANMI is above the ANMI of the consensus kept."""
    arguments = options(__doc__, reference_python="", quick=False).parse_args()
    header("ensemble", "who", "method", "ANMI", "ACC", "s")
    lost = 0
    for ensemble in QUICK if arguments.quick else ENSEMBLES:
        labels, truth = ensemble.make()
        runs = {f"icce_ray:{method}": run for method, run in ours(labels, ensemble.k).items()}
        if arguments.reference_python:
            runs |= reference(arguments.reference_python, labels, ensemble.k)
        sizes, best = labels.max(axis=0) + 1, {"icce_ray": 0.0}
        for name, (label, seconds) in runs.items():
            who, method = name.split(":")
            score = float(
                np.mean([nmi(table) for table in head_contingency(labels, label, sizes, int(label.max()) + 1)])
            )
            best[who] = max(best.get(who, 0.0), score)
            row(ensemble, who, method, f"{score:.4f}", f"{accuracy(label, truth):.4f}", f"{seconds:.2f}")
        lost += any(score > best["icce_ray"] + 1e-9 for score in best.values())
    print(f"\nRows in which a package's best ANMI is above ours: {lost}")
    sys.exit(int(lost > 0))


if __name__ == "__main__":
    main()
