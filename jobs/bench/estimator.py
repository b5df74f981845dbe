"""Seconds and memory of `ICCE(K).fit(X)` with nothing set, all stages, on drawn clusters.

    python jobs/bench/estimator.py [--sizes 100x64x3 1500x324x10]

Each size, rows x features x clusters, runs in a process of its own with the cores it is given.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from measuring import header, in_a_process, peak, row

from icce_ray.core.metrics import scores
from icce_ray.estimator import ICCE

SIZES = ("100x64x3", "1500x324x10", "5000x768x10", "20000x768x10")


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="NxDxK")
    parser.add_argument("--one", metavar="NxDxK", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_one(*map(int, given.one.split("x")))))
        return
    header("rows x features, K", "seconds", "peak memory of the process, GB", "ACC %")
    for size in given.sizes:
        found = in_a_process(__file__, "--one", size)
        rows, features, clusters = size.split("x")
        row(f"{int(rows):,} x {features}, {clusters}", f"{found['seconds']:.1f}", f"{found['gb']:.2f}", found["acc"])


def _one(n_rows: int, dim: int, n_clusters: int) -> dict[str, float]:
    """Seconds, peak memory and ACC in percent of one fit."""
    generator = np.random.default_rng(0)
    classes = generator.integers(n_clusters, size=n_rows)
    centres = 0.25 * generator.normal(size=(n_clusters, dim))
    rows = (centres[classes] + 0.5 * generator.normal(size=(n_rows, dim))).astype(np.float32)
    started = time.perf_counter()
    model = ICCE(n_clusters, random_state=0).fit(rows)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gb": peak() / 1024, "acc": round(100 * scores(model.labels_, classes)["acc"], 1)}


if __name__ == "__main__":
    main()
