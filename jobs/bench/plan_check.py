"""A plan against a real run on this machine: seconds and bytes of each stage, planned and as they were.

    python jobs/bench/plan_check.py [--images 2000 --clusters 10 --backbone hog --factor 3]

Synthetic photographs of 500 x 375 pixels in a folder. Exits with 1 if the run takes `--factor` times longer or shorter
than planned. Rates of another machine, or of a busy one, fail this: run `python jobs/bench/rates.py --write` first.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from measuring import header, options, row
from rates_host import photograph

from icce_ray import pipeline
from icce_ray.cli.plan import duration, number, size
from icce_ray.planning.job import Plan
from icce_ray.planning.plan import make_plan
from icce_ray.planning.rates import load_rates
from icce_ray.settings import Settings, load
from icce_ray.store import Store


def fill(folder: Path, count: int) -> float:
    """Write so many JPEGs; bytes of one on average."""
    folder.mkdir()
    for index in range(count):
        photograph(index).save(folder / f"{index:06d}.jpg", quality=90)
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def planned(settings: Settings, images: int, image_bytes: float) -> Plan:
    """For this machine, whose files lie on its own disk."""
    machines = {"gpus": 0, "gpu_type": "", "cpus": os.cpu_count() or 1, "network_gbit": 1000}
    return make_plan(settings, load_rates(), machines, images=images, image_bytes=image_bytes)


def main() -> None:
    """Run, print one table, judge the whole."""
    given = options(__doc__, images=2000, clusters=10, backbone="hog", factor=3.0).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        average = fill(Path(folder) / "images", given.images)
        values = {
            "source": f"{folder}/images",
            "out": f"{folder}/run",
            "clusters": given.clusters,
            "embed": {"backbone": given.backbone},
            "heads": {"heads": 16, "epochs": 20, "warmup_epochs": 2, "batch_size": 256},
            "classifier": {"iterations": 500},
        }
        settings = load(values)
        plan = planned(settings, given.images, average)
        planned_seconds = plan.total["seconds"] or 0.0
        started = time.monotonic()
        pipeline.run(settings, verbose=False)
        whole = time.monotonic() - started
        store = Store(values["out"])
        header("stage", "planned", "was", "planned / was", "bytes planned", "were")
        for stage in plan.stages:
            marker = store.require(stage.stage)
            ratio = number(stage.seconds / max(marker.seconds, 1e-3))
            written = size(sum(info.bytes for info in marker.files))
            row(stage.stage, duration(stage.seconds), duration(marker.seconds), ratio, size(stage.storage), written)
    ratio = planned_seconds / whole
    row("whole", duration(planned_seconds), duration(whole), number(ratio), "", "")
    sys.exit(int(not 1 / given.factor <= ratio <= given.factor))


if __name__ == "__main__":
    main()
