"""What a plan is made of: machines, the sizes of a job, and amounts of work over the rates of `rates.yaml`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, computed_field

from icce_ray.backbones import PUBLISHED, TRANSFORMER_SIZE, BackboneError, chosen_features, describe_backbone
from icce_ray.core.neighbors import default_k_max
from icce_ray.planning.rates import PlanError, Rate, Rates, Strict
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose, with_choice


class Machines(Strict):
    """What a run may use, and what it costs. Prices are of one GPU or core for an hour."""

    gpus: int = Field(ge=0, le=10**6)
    gpu_type: str
    cpus: int = Field(ge=1, le=10**8)
    network_gbit: float = Field(ge=0.001, le=1e9)
    """Between the store and all machines together, each way."""
    gpu_price: float | None = Field(default=None, ge=0, le=1e9)
    cpu_price: float | None = Field(default=None, ge=0, le=1e9)


class Bucket(Strict):
    """The images there are."""

    images: int = Field(ge=2, le=10**15)
    image_bytes: float = Field(gt=0, le=1e12)
    """On average."""


@dataclass(frozen=True)
class Part:
    """One kind of work of a stage: what it would take if nothing else were to be done."""

    name: str
    seconds: float
    resource: Literal["GPU", "CPU", "network in", "network out", "start"]
    basis: Literal["measured", "counted", "given"]
    gpu_seconds: float = 0.0
    """Summed over the GPUs that compute."""
    cpu_seconds: float = 0.0
    """Summed over the cores that compute."""


class StagePlan(Strict):
    """What one stage takes; sizes in bytes."""

    stage: str
    parts: tuple[Part, ...]
    seconds: float
    gpus_held: int
    """GPUs that nobody else can use meanwhile."""
    storage: float = 0.0
    """What it leaves in the run."""
    device_memory: float = 0.0
    """Of each GPU that it uses; where there is none, of the process that computes."""
    host_memory: float = 0.0
    """Of its largest process besides."""

    @computed_field
    @property
    def gpu_seconds(self) -> float:
        """Of the GPUs held."""
        return self.gpus_held * self.seconds

    @computed_field
    @property
    def cpu_seconds(self) -> float:
        """Work of all cores."""
        return sum(part.cpu_seconds for part in self.parts)

    @computed_field
    @property
    def bottleneck(self) -> str:
        """The longest part on the resource that is busy longest."""
        total = busy(*self.parts)
        busiest = [part for part in self.parts if part.resource == max(total, key=lambda one: total[one])]
        return max(busiest, key=lambda part: part.seconds).name

    @computed_field
    @property
    def basis(self) -> Literal["measured", "counted"]:
        """`counted` if any of its parts is: whoever reads one figure must not take it for measured."""
        return "counted" if any(part.basis == "counted" for part in self.parts) else "measured"


class Plan(Strict):
    """What a run takes, stage by stage and in `total`: seconds, storage, gpu_seconds, cpu_seconds, cost."""

    images: int
    sample: int
    model: str
    dim: int
    machines: Machines
    start_seconds: float
    """Before the first stage."""
    stages: tuple[StagePlan, ...]
    total: dict[str, float | None]
    """The cost is of all machines from beginning to end, busy or not; None where no price is given."""
    rates: dict[str, Rate]
    """Those that were used."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


class Job:
    """Sizes of a run, and its work divided by the rates; `used` are the rates that were asked for."""

    def __init__(self, settings: Settings, machines: Machines, rates: Rates, bucket: Bucket) -> None:
        """Raises PlanError for a model or a GPU without rates, and for settings that no run could have."""
        self.settings, self.machines = settings, machines
        self.gpu = rates.gpu(machines.gpu_type) if machines.gpus else None
        self.used: dict[str, Rate] = {}
        self._rates = rates.table(self.gpu)
        self.images, self.image_bytes, self.clusters = bucket.images, bucket.image_bytes, settings.clusters
        model, *others = settings.embed.backbones
        if others:
            raise PlanError(
                f"{len(settings.embed.backbones)} backbones: a plan counts with one; plan each alone and add them up, "
                "and neighbours and heads once more for the joined space"
            )
        self.shape = None if model == "hog" else rates.model(model)
        self._describe_features()
        if settings.count_unknown:
            raise PlanError("clusters = auto: a plan counts with a number; give --clusters K, as many as you expect")
        if self.images < self.clusters:
            raise PlanError(f"{self.images} images cannot fill {self.clusters} clusters; give more images")
        self.n = min(self.images, settings.heads.max_images)
        """Images that neighbours, heads, consensus and classifier see."""
        choice = choose(settings, n_images=self.n, dim=self.dim, mean_cosine=0.0)
        self.settings = with_choice(settings, choice)
        self.seen = choice.components or self.dim
        """Dimensions that neighbours and heads see."""
        chosen = self.settings.neighbors
        most = chosen.k_max or default_k_max(self.n, self.clusters, chosen.k_min)
        self.k_max = min(chosen.k_min if chosen.mode == "fixed" else most, self.n - 1)
        self.names = self.rate("id_bytes")
        """Bytes of an image's names in a shard."""
        self.row = 2.0 * (self.dim + self.block_dim) + self.names
        """Bytes of an image in the feature shards; features are float16, taken as incompressible."""

    def _describe_features(self) -> None:
        """Pixels a side, and widths of the feature and of the CLS tokens of the last blocks beside it."""
        embed, kind = self.settings.embed, self.settings.embed.features
        if self.shape is None:
            try:
                info = describe_backbone("hog", kind, n_last_blocks=embed.n_last_blocks, image_size=embed.image_size)
            except BackboneError as error:
                raise PlanError(str(error)) from error
            self.side, self.dim, self.block_dim = info.image_size, info.dim, info.block_dim
            self.layout = {name: list(columns) for name, columns in info.layout.items()}
            return
        width, self.side = self.shape.width, embed.image_size or TRANSFORMER_SIZE
        model = embed.backbones[0]
        kinds = ("cls+patch_mean", "cls", "patch_mean", *(() if model in PUBLISHED else ("pooled",)))
        try:
            kind = chosen_features(model, kind, kinds)
        except BackboneError as error:
            raise PlanError(str(error)) from error
        if self.side < self.shape.patch or self.side % self.shape.patch:
            raise PlanError(f"image_size {self.side} is no multiple of the patch size {self.shape.patch}")
        self.layout = {name: [i * width, (i + 1) * width] for i, name in enumerate(kind.split("+"))}
        self.dim = width * len(self.layout)
        self.block_dim = embed.n_last_blocks * width if embed.n_last_blocks > 1 else 0

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where tensors live."""
        return "cuda" if self.gpu else "cpu"

    def rate(self, name: str) -> float:
        """One of `Rates.table`."""
        self.used[name] = self._rates[name]
        return self.used[name].value

    def _basis(self, *names: str) -> Literal["measured", "counted"]:
        return "counted" if any(self.used[name].measured is None for name in names) else "measured"

    def fixed(self, stage: str) -> Part:
        """What a stage takes however small it is, or Ray before the first."""
        name = f"fixed {stage}"
        return Part("begin and end", self.rate(name), "start", self._basis(name))

    def cpu(self, name: str, amount: float, rate: str, cores: int | None = None) -> Part:
        """So much work for `cores` cores, by default for all."""
        return self._on_cores(name, {rate: amount}, cores)

    def tensors(self, name: str, amounts: dict[str, float], gpus: int | None = None) -> Part:
        """Work by rate, for `gpus` GPUs, by default for all; for all cores where there is none."""
        if self.gpu is None:
            return self._on_cores(name, amounts)
        seconds = sum(amount / self.rate(rate) for rate, amount in amounts.items())
        return Part(name, seconds / (gpus or self.machines.gpus), "GPU", self._basis(*amounts), gpu_seconds=seconds)

    def _on_cores(self, name: str, amounts: dict[str, float], cores: int | None = None) -> Part:
        seconds = sum(amount / self.rate(rate) for rate, amount in amounts.items())
        cores = min(cores or self.machines.cpus, self.machines.cpus)
        return Part(name, seconds / cores, "CPU", self._basis(*amounts), cpu_seconds=seconds)

    def network(self, size: float, resource: Literal["network in", "network out"], name: str | None = None) -> Part:
        """Bytes between the store and all machines together."""
        name = name or ("download" if resource == "network in" else "upload")
        return Part(name, size / (self.machines.network_gbit * 1e9 / 8), resource, "given")

    def written(self, size: float, cores: int | None = None) -> tuple[Part, Part]:
        """Bytes of Parquet, compressed and uploaded."""
        return self.cpu("write", size, "parquet_write", cores), self.network(size, "network out")

    def stage(self, stage: str, *parts: Part, seconds: float, gpus: int = 0, **sizes: float) -> StagePlan:
        """A stage of so many seconds beside those that it takes however small it is; `sizes` are those of its plan."""
        parts = (*parts, self.fixed(stage))
        return StagePlan(stage=stage, parts=parts, seconds=seconds + parts[-1].seconds, gpus_held=gpus, **sizes)


def busy(*parts: Part) -> dict[str, float]:
    """Seconds that each resource is busy."""
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        total[part.resource] += part.seconds
    return total


def streamed(*parts: Part) -> float:
    """Seconds of parts side by side: those on one resource wait for each other."""
    return max(busy(*parts).values())


def in_turn(*parts: Part) -> float:
    """Seconds of parts one after another."""
    return sum(part.seconds for part in parts)
