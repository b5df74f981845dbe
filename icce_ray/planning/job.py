"""What a plan is made of: machines, the sizes of a job, and amounts of work over the rates of `rates.yaml`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import Field

from icce_ray.backbones import TRANSFORMER_SIZE, BackboneError, describe_backbone
from icce_ray.core.neighbors import default_k_max
from icce_ray.planning.rates import PlanError, Rate, Rates, Strict
from icce_ray.settings import Settings


class Machines(Strict):
    """What a run may use, and what it costs. Prices are of one GPU or core for an hour."""

    gpus: int = Field(ge=0, le=10**6)
    gpu_type: str
    cpus: int = Field(ge=1, le=10**8)
    network_gbit: float = Field(ge=0.001, le=1e9)
    """Between the store and all machines together, each way."""
    gpu_price: float | None = Field(default=None, ge=0, le=1e9)
    cpu_price: float | None = Field(default=None, ge=0, le=1e9)

    @property
    def price(self) -> float | None:
        """Of all machines for an hour; None without any price."""
        if self.gpu_price is None and self.cpu_price is None:
            return None
        return self.gpus * (self.gpu_price or 0.0) + self.cpus * (self.cpu_price or 0.0)


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
    basis: Literal["measured", "derived", "given"]
    gpu_seconds: float = 0.0
    """Summed over the GPUs that compute."""
    cpu_seconds: float = 0.0
    """Summed over the cores that compute."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes; sizes in bytes."""

    stage: str
    parts: tuple[Part, ...]
    seconds: float
    gpus_held: int
    """GPUs that nobody else can use meanwhile."""
    gpu_seconds: float
    """Of the GPUs held."""
    cpu_seconds: float
    """Work of all cores."""
    storage: float
    """What it leaves in the run."""
    device_memory: float
    """Of each GPU that it uses; where there is none, of the process that computes."""
    host_memory: float
    """Of its largest process besides."""
    bottleneck: str
    """The longest part on the resource that is busy longest."""
    basis: Literal["measured", "derived"]
    """`derived` if any of its parts is: whoever reads one figure must not take it for measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        rates = {name: rate.model_dump(mode="json", exclude_none=True) for name, rate in self.rates.items()}
        return asdict(replace(self, rates={})) | {"machines": self.machines.model_dump(), "rates": rates}


class Job:
    """Sizes of a run, and its work divided by the rates; `used` are the rates that were asked for."""

    def __init__(self, settings: Settings, machines: Machines, rates: Rates, bucket: Bucket) -> None:
        """Raises PlanError for a model or a GPU without rates, and for settings that no run could have."""
        self.settings, self.machines, self.rates = settings, machines, rates
        self.used: dict[str, Rate] = {}
        self.gpu = rates.gpu(machines.gpu_type) if machines.gpus else None
        self.images, self.image_bytes, self.clusters = bucket.images, bucket.image_bytes, settings.clusters
        self._describe_features()
        if settings.count_unknown:
            raise PlanError("clusters = auto: a plan counts with a number; give --clusters K, as many as you expect")
        if self.images < self.clusters:
            raise PlanError(f"{self.images} images cannot fill {self.clusters} clusters; give more images")
        self.n = min(self.images, settings.heads.max_images)
        """Images that neighbours, heads, consensus and classifier see."""
        chosen = settings.neighbors
        most = chosen.k_max or default_k_max(self.n, self.clusters, chosen.k_min)
        self.k_max = min(chosen.k_min if chosen.mode == "fixed" else most, self.n - 1)
        self.names = self.host("id_bytes")
        """Bytes of an image's names in a shard."""
        self.row = 2.0 * (self.dim + self.block_dim) + self.names
        """Bytes of an image in the feature shards; features are float16, taken as incompressible."""

    def _describe_features(self) -> None:
        """Pixels a side, and widths of the feature and of the CLS tokens of the last blocks beside it."""
        embed, kind = self.settings.embed, self.settings.embed.feature_kind
        self.shape = None if embed.backbone == "hog" else self.rates.model(embed.backbone)
        if self.shape is None:
            try:
                info = describe_backbone("hog", kind, n_last_blocks=embed.n_last_blocks, image_size=embed.image_size)
            except BackboneError as error:
                raise PlanError(str(error)) from error
            self.side, self.dim, self.block_dim = info.image_size, info.dim, info.block_dim
            self.layout = {name: list(columns) for name, columns in info.layout.items()}
            return
        width, self.side = self.shape.width, embed.image_size or TRANSFORMER_SIZE
        if kind not in ("cls", "cls+patch_mean"):
            raise PlanError(f"features {kind!r} do not exist for {embed.backbone!r}; use 'cls' or 'cls+patch_mean'")
        if self.side < self.shape.patch or self.side % self.shape.patch:
            raise PlanError(f"image_size {self.side} is no multiple of the patch size {self.shape.patch}")
        self.layout = {name: [i * width, (i + 1) * width] for i, name in enumerate(kind.split("+"))}
        self.dim = width * len(self.layout)
        self.block_dim = embed.n_last_blocks * width if embed.n_last_blocks > 1 else 0

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where tensors live."""
        return "cuda" if self.gpu else "cpu"

    def _use(self, name: str, rate: Rate) -> float:
        self.used[name] = rate
        return rate.value

    def _basis(self, *names: str) -> Literal["measured", "derived"]:
        return "derived" if any(self.used[name].measured is None for name in names) else "measured"

    def host(self, name: str) -> float:
        """A rate of one core, or of the files."""
        return self._use(name, self.rates.host[name])

    def unit(self, name: str) -> float:
        """A rate of one GPU, or of all cores where there is none."""
        if self.gpu is not None:
            return self._use(name, self.gpu.rate(name, self.rates.shares[name]))
        return self.machines.cpus * self._use(name, self.rates.core[name])

    def fixed(self, stage: str) -> Part:
        """What a stage takes however small it is, or Ray before the first."""
        seconds = self._use(f"fixed {stage}", self.rates.fixed[stage])
        return Part("begin and end", seconds, "start", self._basis(f"fixed {stage}"))

    def cpu(self, name: str, amount: float, rate: str, cores: int | None = None) -> Part:
        """So much work for `cores` cores, by default for all."""
        seconds = amount / self.host(rate)
        cores = min(cores or self.machines.cpus, self.machines.cpus)
        return Part(name, seconds / cores, "CPU", self._basis(rate), cpu_seconds=seconds)

    def tensors(self, name: str, amounts: dict[str, float], gpus: int | None = None) -> Part:
        """Work by rate, for `gpus` GPUs, by default for all; for all cores where there is none."""
        seconds = sum(amount / self.unit(rate) for rate, amount in amounts.items())
        if self.gpu is None:
            return Part(name, seconds, "CPU", self._basis(*amounts), cpu_seconds=seconds * self.machines.cpus)
        return Part(name, seconds / (gpus or self.machines.gpus), "GPU", self._basis(*amounts), gpu_seconds=seconds)

    def network(self, size: float, resource: Literal["network in", "network out"]) -> Part:
        """Bytes between the store and all machines together."""
        name = "download" if resource == "network in" else "upload"
        return Part(name, size / (self.machines.network_gbit * 1e9 / 8), resource, "given")

    def written(self, size: float, cores: int | None = None) -> tuple[Part, Part]:
        """Bytes of Parquet, compressed and uploaded."""
        return self.cpu("write", size, "parquet_write", cores), self.network(size, "network out")

    def stage(
        self,
        stage: str,
        *parts: Part,
        seconds: float,
        gpus: int = 0,
        storage: float = 0,
        device: float = 0,
        host: float = 0,
    ) -> StagePlan:
        """A stage of so many seconds beside those that it takes however small it is."""
        parts = (*parts, self.fixed(stage))
        total = busy(*parts)
        busiest = [part for part in parts if part.resource == max(total, key=lambda one: total[one])]
        seconds += parts[-1].seconds
        return StagePlan(
            stage=stage,
            parts=parts,
            seconds=seconds,
            gpus_held=gpus,
            gpu_seconds=gpus * seconds,
            cpu_seconds=sum(part.cpu_seconds for part in parts),
            storage=storage,
            device_memory=device,
            host_memory=host,
            bottleneck=max(busiest, key=lambda part: part.seconds).name,
            basis="derived" if any(part.basis == "derived" for part in parts) else "measured",
        )


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
