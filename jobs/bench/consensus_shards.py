"""The stage `consensus` on large synthetic head labels: seconds by step, and memory, which must not grow in the driver.

    python jobs/bench/consensus_shards.py --images 500000 2000000 --clusters 1000 --heads 50

Labels are made like this: every image has a true class, classes are equally likely, and every class has 4 others that
it is taken for, the same for all heads. A head gives an image its class (80 %), one of the 4 (15 %) or any class (5 %),
each head and image by itself, and names its clusters by a permutation of its own. They are written as the parts of a
run in a temporary directory; then the stage's own code runs in a process of its own on a local Ray with --cpus CPUs.

Seconds are by the clock, and in brackets of all cores. They count for a step until the next begins: what tasks do by
reference counts where they are waited for, votes with the tallies.
Memory is read from /proc five times a second. Driver and task: the largest resident memory of one process, of which
`shared` is the object store's. In all: the object store, and what is not shared of the driver, Ray and its workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measuring import Watch, header, in_a_process, options, row

from icce_ray.progress import Progress

TAKEN_FOR, CONFUSED, RANDOM = 4, 0.15, 0.05
ROWS_PER_PART = 50_000
STEPS = {
    "shards": "read",
    "tables": "tables",
    "meta-clusters": "cuts",
    "against": "tallies",
    "vote": "tallies",
    "no image": "splits",
}
STEP_NAMES = list(dict.fromkeys(STEPS.values()))


def write_run(root: str, images: int, clusters: int, heads: int, seed: int = 0) -> np.ndarray:
    """Features (names only) and head labels of a run whose stages up to `heads` are complete; true classes int[N]."""
    from icce_ray.stages.features import list_column
    from icce_ray.store import Store
    from icce_ray.store.artifacts import FEATURES, HEAD_LABELS

    store, files, truth = Store(root), {"embed": [], "heads": []}, []
    rng = np.random.default_rng(seed)
    taken_for = np.stack([rng.permutation(clusters) for _ in range(TAKEN_FOR)], axis=1)
    names = np.stack([rng.permutation(clusters) for _ in range(heads)]).astype(np.int32)
    for number, first in enumerate(range(0, images, ROWS_PER_PART)):
        rng = np.random.default_rng([seed, number])
        true = rng.integers(clusters, size=min(ROWS_PER_PART, images - first))
        labels = np.empty((true.size, heads), dtype=np.int32)
        for head in range(heads):
            seen, chance = true.copy(), rng.random(true.size)
            confused, random = chance < CONFUSED, chance > 1 - RANDOM
            seen[confused] = taken_for[true[confused], rng.integers(TAKEN_FOR, size=confused.sum())]
            seen[random] = rng.integers(clusters, size=random.sum())
            labels[:, head] = names[head][seen]
        image_ids = np.arange(first, first + true.size)
        keys = pa.array([f"{image:08d}.jpg" for image in image_ids])
        table = pa.table({"image_id": image_ids, "uri": keys, "key": keys})
        files["embed"].append(store.storage.write_table(FEATURES.part(number), table))
        table = pa.table({"image_id": image_ids, "key": keys, "labels": list_column(labels)})
        files["heads"].append(store.storage.write_table(HEAD_LABELS.part(number), table))
        truth.append(true)
    for stage, summary in {"embed": {}, "heads": {"heads": heads}}.items():
        store.commit(stage, files[stage], fingerprint="synthetic", summary=summary, seconds=0.0)
    return np.concatenate(truth)


class Clock(Progress):
    """Progress that keeps the seconds of every step, by the clock and of all cores; one ends where the next begins."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.seconds: dict[str, list[float]] = {}
        self.now, self.since = "", (time.perf_counter(), watch.cpu())

    def update(self, done: int, **facts: Any) -> None:
        """The step under way has another name, or none."""
        since, self.since = self.since, (time.perf_counter(), self.watch.cpu())
        if self.now:
            before = self.seconds.get(self.now, [0.0, 0.0])
            self.seconds[self.now] = [
                old + new - start for old, new, start in zip(before, self.since, since, strict=True)
            ]
        self.now = next((short for word, short in STEPS.items() if word in facts.get("now", "")), "rest")

    def log(self, text: str) -> None:
        """One line of text."""
        print(f"{time.strftime('%X')} {text}", file=sys.stderr, flush=True)


def run_stage(root: str, clusters: int, heads: int, cpus: int) -> dict[str, Any]:
    """The stage in this process; what it took."""
    import ray

    from icce_ray.settings import load
    from icce_ray.stages import consensus
    from icce_ray.stages.cluster import QUIET, Resources
    from icce_ray.store import Store

    os.environ |= QUIET
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    values = {"source": root, "out": root, "clusters": clusters, "heads": {"heads": heads}}
    watch = Watch()
    watch.start()
    clock, started, cpu = Clock(watch), time.perf_counter(), watch.cpu()
    _, summary = consensus.run(load(values), Store(root), Resources("cpu", 0, 1, cpus), clock)
    total = [time.perf_counter() - started, watch.cpu() - cpu]
    return {"total": total, "seconds": clock.seconds, "memory": watch.most, "summary": summary}


def print_row(images: int, clusters: int, heads: int, cpus: int) -> None:
    """One row of the table."""
    from icce_ray.core.metrics import accuracy
    from icce_ray.store import Store

    with tempfile.TemporaryDirectory(prefix="icce-consensus-") as root:
        truth = write_run(root, images, clusters, heads)
        sizes = ("--clusters", clusters, "--heads", heads, "--cpus", cpus)
        found = in_a_process(__file__, "--stage", root, *sizes)
        parts = sorted(Path(root).glob("consensus/part-*.parquet"))
        storage = Store(root).storage
        labels = np.concatenate(
            [storage.read_table(f"consensus/{p.name}", ["label"])["label"].to_numpy() for p in parts]
        )
    summary, seconds, memory = found["summary"], found["seconds"], found["memory"]
    each = [found["total"], *(seconds.get(name, [0.0, 0.0]) for name in (*STEP_NAMES, "rest"))]
    times = (f"{clock:.1f} ({cpu:.1f})" for clock, cpu in each)
    quality = f"{summary['anmi']:.4f}", f"{accuracy(labels, truth):.4f}", summary["votes"], summary["empty_clusters"]
    row(f"{images:,}", *times, *(memory[name] for name in ("driver", "task", "shared", "all")), *quality)


def main() -> None:
    """Print one table, a row for each number of images."""
    parser = options(__doc__, images=[500_000, 2_000_000], clusters=1000, heads=50, cpus=2)
    parser.add_argument("--stage", metavar="RUN", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(json.dumps(run_stage(given.stage, given.clusters, given.heads, given.cpus)))
        return
    columns = ["images", "s in all", *STEP_NAMES, "rest", "driver MiB", "task MiB", "shared MiB", "all MiB"]
    columns += ["ANMI", "ACC", "votes kept", "empty"]
    header(*columns)
    for images in given.images:
        print_row(images, given.clusters, given.heads, given.cpus)


if __name__ == "__main__":
    main()
