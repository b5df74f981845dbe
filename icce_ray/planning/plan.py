"""A plan: every stage over a bucket of N images on given machines, with all that it assumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from icce_ray.planning import every_image, learning
from icce_ray.planning.job import Job, Machines, Speeds
from icce_ray.planning.parts import StagePlan
from icce_ray.planning.rates import Rate, Rates
from icce_ray.settings import Settings

#: In the order of the pipeline.
STAGES: dict[str, Callable[[Job, Speeds], StagePlan]] = {
    "list": every_image.listing,
    "embed": every_image.embed,
    "sample": every_image.sample,
    "neighbors": learning.neighbors,
    "heads": learning.heads,
    "consensus": learning.consensus,
    "classifier": learning.classifier,
    "predict": every_image.predict,
}


@dataclass(frozen=True)
class Plan:
    """What a run takes, stage by stage."""

    job: Job
    machines: Machines
    stages: tuple[StagePlan, ...]
    start: float
    """Seconds before the first stage."""
    used: dict[str, Rate]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """From begin to end: stages follow each other."""
        return self.start + sum(stage.seconds for stage in self.stages)

    @property
    def gpu_seconds(self) -> float:
        """GPUs held, over all stages."""
        return sum(stage.gpu_seconds for stage in self.stages)

    @property
    def cpu_seconds(self) -> float:
        """Work of all cores, over all stages."""
        return sum(stage.cpu_seconds for stage in self.stages)

    @property
    def storage(self) -> float:
        """Bytes of the run's directory."""
        return sum(stage.storage for stage in self.stages)

    @property
    def cost(self) -> float | None:
        """Of all machines from begin to end, busy or not; None where no price is known."""
        return None if self.machines.price is None else self.machines.price * self.seconds / 3600

    def as_dict(self) -> dict[str, Any]:
        """Plain values: seconds, bytes, and how every rate is known."""
        stages = []
        for stage in self.stages:
            parts = [asdict(part) for part in stage.parts]
            names = ("gpu_seconds", "cpu_seconds", "basis")
            totals = {name: getattr(stage, name) for name in names}
            stages.append(asdict(stage) | totals | {"bottleneck": stage.bottleneck.name, "parts": parts})
        names = ("seconds", "storage", "gpu_seconds", "cpu_seconds", "cost")
        return {
            "images": self.job.images,
            "sample": self.job.sample,
            "model": self.job.settings.embed.backbone,
            "dim": self.job.dim,
            "machines": asdict(self.machines),
            "start_seconds": self.start,
            "stages": stages,
            "total": {name: getattr(self, name) for name in names},
            "rates": {name: rate.model_dump(mode="json", exclude_none=True) for name, rate in self.used.items()},
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
        }


def make_plan(settings: Settings, machines: Machines, rates: Rates, *, images: int, image_bytes: float) -> Plan:
    """Plan a run of `settings` over `images` images of `image_bytes` each.

    Raises PlanError for a model or a GPU without rates, and for settings that no run could have.
    """
    backbone = settings.embed.backbone
    transformer = None if backbone == "hog" else rates.model(backbone).transformer()
    if machines.gpus:
        rates.gpu(machines.gpu_type)
    job, speeds = Job(settings, images, image_bytes, transformer), Speeds(rates, machines)
    start = speeds.fixed("start")
    stages = tuple(stage(job, speeds) for stage in STAGES.values())
    warnings = [warning for stage in stages for warning in stage.warnings]
    if machines.gpus:
        memory = rates.gpu(machines.gpu_type).memory_gb * 1e9
        warnings += [
            f"{stage.stage}: {stage.device_memory / 1e9:,.0f} GB on each GPU do not fit into the "
            f"{memory / 1e9:,.0f} GB of {machines.gpu_type}; {_remedy(stage.stage)}"
            for stage in stages
            if stage.device_memory > memory
        ]
    return Plan(job, machines, stages, start, speeds.used, _assumptions(job, speeds), tuple(warnings))


def _remedy(stage: str) -> str:
    return {
        "heads": "set neighbors.k_max lower (the lists take k_max int32 an image), or heads.max_images",
        "embed": "set resources.embed_batch lower",
        "classifier": "set heads.max_images lower",
    }.get(stage, "use more or larger GPUs, or set heads.max_images lower")


def _assumptions(job: Job, speeds: Speeds) -> tuple[str, ...]:
    """What the figures rest on beside the rates."""
    machines, settings = speeds.machines, job.settings
    lines = [
        f"images of {job.image_bytes / 1e3:,.0f} kB on average, decoded as fast as the 500-pixel JPEGs of the "
        "measurement; none is rejected",
        f"{machines.cpus:,} cores, each as fast as one of the machine the rates were measured on",
        f"{machines.network_gbit:g} Gbit/s each way between the store and all machines together (--network-gbit), and "
        "a store that answers as many requests as that takes",
        f"every image has k_max = {job.k_max:,} neighbours, so lists, their storage and memory are upper bounds",
        "no two images have the same labels under all heads, and the heads vote 20 times: upper bounds",
        "stages follow each other; GPU hours are of GPUs held by a stage, busy or not, CPU hours of busy cores",
    ]
    if job.sampled:
        lines.append(
            f"neighbors, heads, consensus and classifier see {job.sample:,} images (heads.max_images), whatever the "
            "bucket holds"
        )
    if machines.gpus > 1:
        lines.append("heads are shared out over the GPUs; what they exchange is not counted")
    if settings.neighbors.search == "ivf":
        lines.append("ivf: the probed share of the exact search's work, at its speed; making the lists is not counted")
    if settings.neighbors.mode == "ground_truth":
        lines.append("ground-truth neighbours are planned as if they were searched")
    if machines.price is not None:
        lines.append("cost: all GPUs and cores from begin to end, busy or not; storage and requests are not counted")
    return tuple(lines)
