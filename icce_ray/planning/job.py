"""What is to be planned: the sizes that follow from the settings, and the machines it is to run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from icce_ray.documents import shown
from icce_ray.planning import operations
from icce_ray.planning.operations import Transformer
from icce_ray.planning.rates import DeviceRate, FixedRate, HostRate, PlanError, Rate, Rates
from icce_ray.settings import Settings

HOG_PARTS = {"hog": [324], "hog+color": [324, 48]}
HOG_SIZE, TRANSFORMER_SIZE = 32, 224
#: Of a plan: far above what there is, and so that no product of them is beyond a float.
MOST_IMAGES, MOST_BYTES = 10**15, 1e12
_LIMITS = {
    "gpus": (0, 10**6),
    "cpus": (1, 10**8),
    "network_gbit": (0.001, 1e9),
    "gpu_price": (0, 1e9),
    "cpu_price": (0, 1e9),
}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What a run may use, and what it costs. Prices are of one GPU or core for an hour."""

    gpus: int
    gpu_type: str
    cpus: int
    network_gbit: float
    gpu_price: float | None = None
    cpu_price: float | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # so is what is no number
                raise PlanError(f"{name} = {shown(value)}: give at least {low:g} and at most {high:g}")

    @property
    def network(self) -> float:
        """Bytes a second between the store and all machines together, each way."""
        return self.network_gbit * 1e9 / 8

    @property
    def price(self) -> float | None:
        """Of all machines for an hour; None without any price."""
        if self.gpu_price is None and self.cpu_price is None:
            return None
        return self.gpus * (self.gpu_price or 0.0) + self.cpus * (self.cpu_price or 0.0)


@dataclass(frozen=True)
class Job:
    """Sizes of a run over `images` images of `image_bytes` each. Raises PlanError for what no run could do."""

    settings: Settings
    images: int
    image_bytes: float
    transformer: Transformer | None
    """None for `hog`."""

    def __post_init__(self) -> None:
        embed = self.settings.embed
        kinds = tuple(HOG_PARTS) if self.transformer is None else ("cls", "cls+patch_mean")
        if embed.feature_kind not in kinds:
            raise PlanError(f"features {embed.feature_kind!r} do not exist for {embed.backbone!r}; use one of {kinds}")
        if self.transformer and (self.side < self.transformer.patch or self.side % self.transformer.patch):
            raise PlanError(f"image_size {self.side} is no multiple of the patch size {self.transformer.patch}")
        if self.transformer is None and embed.n_last_blocks > 1:
            raise PlanError(f"n_last_blocks is {embed.n_last_blocks}, but hog has no blocks; set it to 1")
        if self.settings.count_unknown:
            raise PlanError("clusters = auto: a plan counts with a number; give --clusters K, as many as you expect")
        if self.images < max(2, self.settings.clusters):
            raise PlanError(f"{self.images} images cannot fill {self.settings.clusters} clusters; give more images")
        if self.images > MOST_IMAGES:
            raise PlanError(f"images = {shown(self.images)}: give at most {MOST_IMAGES:g}")
        if not 0 < self.image_bytes <= MOST_BYTES:
            raise PlanError(f"images of {self.image_bytes:g} bytes; give more than 0 and at most {MOST_BYTES:g}")

    @property
    def side(self) -> int:
        """Pixels a side that the backbone sees."""
        return self.settings.embed.image_size or (HOG_SIZE if self.transformer is None else TRANSFORMER_SIZE)

    @cached_property
    def layout(self) -> list[int]:
        """Widths of the parts of the feature."""
        kind = self.settings.embed.feature_kind
        if self.transformer is None:
            return HOG_PARTS[kind]
        return [self.transformer.width] * (2 if kind == "cls+patch_mean" else 1)

    @property
    def dim(self) -> int:
        """Numbers of a feature, D."""
        return sum(self.layout)

    @property
    def block_dim(self) -> int:
        """Numbers of the CLS tokens of the last blocks beside it."""
        blocks = self.settings.embed.n_last_blocks
        return blocks * self.transformer.width if self.transformer and blocks > 1 else 0

    @property
    def sample(self) -> int:
        """Images that neighbours, heads, consensus and classifier see, n."""
        return min(self.images, self.settings.heads.max_images)

    @property
    def sampled(self) -> bool:
        """Whether that is fewer than all."""
        return self.sample < self.images

    @property
    def k_max(self) -> int:
        """Neighbours of an image at most."""
        chosen = self.settings.neighbors
        if chosen.mode == "fixed":
            return min(chosen.k_min, self.sample - 1)
        most = chosen.k_max or operations.default_k_max(self.sample, self.settings.clusters, chosen.k_min)
        return min(most, self.sample - 1)

    @cached_property
    def head_parameters(self) -> int:
        """Parameters of one head."""
        return operations.head_parameters(**self._head_sizes)

    @cached_property
    def head_products(self) -> int:
        """Multiply-adds of one row through one head."""
        return operations.head_products(**self._head_sizes)

    @property
    def _head_sizes(self) -> dict[str, int]:
        heads = self.settings.heads
        sizes = {"hidden": heads.hidden, "bottleneck": heads.bottleneck}
        return {"dim": self.dim, "clusters": self.settings.clusters} | sizes


@dataclass
class Speeds:
    """Speeds of these machines, with a list of the rates that were asked for."""

    rates: Rates
    machines: Machines
    used: dict[str, Rate] = field(default_factory=dict)

    @property
    def device(self) -> Literal["cpu", "gpu"]:
        """Where tensors live."""
        return "gpu" if self.machines.gpus else "cpu"

    def host(self, name: HostRate) -> float:
        """Of one core."""
        return self._note(name, self.rates.host[name])

    def fixed(self, stage: FixedRate) -> float:
        """Seconds of a stage that do not depend on its size."""
        return self._note(f"fixed {stage}", self.rates.fixed[stage])

    def unit(self, name: DeviceRate) -> float:
        """Of one GPU, or of all cores where there is none."""
        if self.device == "gpu":
            return self._note(name, self.rates.of_gpu(self.machines.gpu_type, name))
        return self.machines.cpus * self._note(name, self.rates.core[name])

    def _note(self, name: str, rate: Rate) -> float:
        self.used[name] = rate
        return rate.value

    def derived(self, *names: str) -> bool:
        """Whether one of these rates has not been measured."""
        return any(self.used[name].measured is None for name in names)
