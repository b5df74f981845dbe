"""The plans of docs/web-scale.md: ImageNet's size, 100 million and a billion images, side by side.

    python jobs/bench/plans.py [--gpus 8 --gpu-type h200]

Prints Markdown. K = 1,000, 50 heads, 400 epochs, ViT-L, images of 100 kB, 16 cores a GPU, 25 Gbit/s. Nothing is run;
`tests/unit/planning/test_command.py` holds that page's table against it.
"""

from __future__ import annotations

from measuring import options

from icce_ray.cli.plan import CORES_PER_GPU, duration, hours, size
from icce_ray.planning.job import Plan, StagePlan
from icce_ray.planning.plan import make_plan
from icce_ray.planning.rates import load_rates
from icce_ray.settings import PlanSettings, load_as

IMAGES = {"1.28 M": 1_281_167, "100 M": 10**8, "1 B": 10**9}
SHOWN = ("embed", "heads")  # whose parts have rows of their own


def planned(images: int, gpus: int, gpu_type: str) -> Plan:
    """A plan of the paper's recipe for a bucket of so many images."""
    values = {"clusters": 1000, "embed": {"backbone": "facebook/dinov2-large"}}
    settings = load_as(PlanSettings, values | {"heads": {"heads": 50, "epochs": 400}})
    machines = {"gpus": gpus, "gpu_type": gpu_type, "cpus": CORES_PER_GPU * gpus, "network_gbit": 25.0}
    return make_plan(settings, load_rates(), machines, images=images, image_bytes=1e5)


def rows(gpus: int, gpu_type: str) -> list[list[str]]:
    """Cells of the table: times of all plans, and the rest of the largest."""
    plans = [planned(images, gpus, gpu_type) for images in IMAGES.values()]
    table = [
        ["stage", *IMAGES, *(f"{name} (1 B)" for name in ("storage", "GPU memory", "GPU h", "CPU h")), "bottleneck"]
    ]
    table[0] += ["known"]
    for stages in zip(*(plan.stages for plan in plans), strict=True):
        table.append([stages[0].stage, *(duration(one.seconds) for one in stages), *_rest(stages[-1])])
        for parts in zip(*(one.parts for one in stages), strict=True) if stages[0].stage in SHOWN else ():
            last = parts[-1]
            if last.resource != "start":
                times = [duration(part.seconds) for part in parts]
                work = [hours(last.gpu_seconds), hours(last.cpu_seconds), last.resource, last.basis]
                table.append([f"- {last.name} alone", *times, "", "", *work])
    total, last = [duration(plan.total["seconds"] or 0.0) for plan in plans], plans[-1].total
    sums = [size(last["storage"] or 0.0), "", hours(last["gpu_seconds"] or 0.0), hours(last["cpu_seconds"] or 0.0)]
    return [*table, ["**total**", *total, *sums, "", ""]]


def _rest(stage: StagePlan) -> list[str]:
    memory = size(stage.device_memory) if stage.gpus_held else ""
    work = [hours(stage.gpu_seconds), hours(stage.cpu_seconds)]
    return [size(stage.storage), memory, *work, stage.bottleneck, stage.basis]


def main() -> None:
    """Print the table."""
    given = options(__doc__, gpus=8, gpu_type="h200").parse_args()
    for number, cells in enumerate(rows(given.gpus, given.gpu_type)):
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("|" + "---|" * len(cells))


if __name__ == "__main__":
    main()
