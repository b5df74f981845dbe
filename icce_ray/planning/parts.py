"""Parts of a stage, and how their times make the stage's own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from icce_ray.planning.job import Speeds
from icce_ray.planning.rates import FixedRate

Resource = Literal["GPU", "CPU", "network in", "network out", "start"]
Basis = Literal["measured", "derived", "given"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of work of a stage: what it would take if nothing else were to be done."""

    name: str
    seconds: float
    resource: Resource
    basis: Basis
    gpu_seconds: float = 0.0
    """Summed over the GPUs that compute."""
    cpu_seconds: float = 0.0
    """Summed over the cores that compute."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes."""

    stage: str
    parts: tuple[Part, ...]
    seconds: float
    """From its begin to its end."""
    gpus_held: int = 0
    """GPUs that nobody else can use meanwhile."""
    storage: float = 0.0
    """Bytes it leaves in the run."""
    device_memory: float = 0.0
    """Bytes on each GPU that it uses; where there is none, of the process that computes."""
    host_memory: float = 0.0
    """Bytes of its largest process besides."""
    warnings: tuple[str, ...] = ()

    @property
    def gpu_seconds(self) -> float:
        """GPUs held times the time they are held."""
        return self.gpus_held * self.seconds

    @property
    def cpu_seconds(self) -> float:
        """Work of all cores."""
        return sum(part.cpu_seconds for part in self.parts)

    @property
    def bottleneck(self) -> Part:
        """The longest part on the resource that is busy longest."""
        total = busy(self.parts)
        busiest = max(total, key=lambda name: total[name])
        return max((part for part in self.parts if part.resource == busiest), key=lambda part: part.seconds)

    @property
    def basis(self) -> Basis:
        """`derived` if any of its parts is: whoever reads one figure must not take it for measured."""
        return "derived" if any(part.basis == "derived" for part in self.parts) else "measured"


def busy(parts: tuple[Part, ...]) -> dict[str, float]:
    """Seconds that each resource is busy."""
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        total[part.resource] += part.seconds
    return total


def streamed(*parts: Part) -> float:
    """Seconds of parts that run beside each other: those on one resource wait for each other."""
    return max(busy(parts).values())


def in_turn(*parts: Part) -> float:
    """Seconds of parts one after another."""
    return sum(part.seconds for part in parts)


@dataclass(frozen=True)
class Parts:
    """Makes parts from amounts of work; `names` are the rates that each amount was divided by."""

    speeds: Speeds

    def begin(self, stage: FixedRate) -> Part:
        """What a stage takes however small it is."""
        seconds = self.speeds.fixed(stage)
        return Part(name="begin and end", seconds=seconds, resource="start", basis=self._basis(f"fixed {stage}"))

    def cpu(self, name: str, core_seconds: float, *names: str, cores: int | None = None) -> Part:
        """Work of `cores` cores, by default of all."""
        cores = min(cores or self.speeds.machines.cpus, self.speeds.machines.cpus)
        seconds = core_seconds / cores
        return Part(name=name, seconds=seconds, resource="CPU", basis=self._basis(*names), cpu_seconds=core_seconds)

    def tensors(self, name: str, unit_seconds: float, *names: str, gpus: int | None = None) -> Part:
        """Work of `gpus` GPUs, by default of all, or of all cores where there is none.

        `unit_seconds` are what one GPU, or all cores, would take.
        """
        machines, basis = self.speeds.machines, self._basis(*names)
        if self.speeds.device == "cpu":
            cpu = unit_seconds * machines.cpus
            return Part(name=name, seconds=unit_seconds, resource="CPU", basis=basis, cpu_seconds=cpu)
        seconds = unit_seconds / (gpus or machines.gpus)
        return Part(name=name, seconds=seconds, resource="GPU", basis=basis, gpu_seconds=unit_seconds)

    def network(self, name: str, size: float, resource: Literal["network in", "network out"]) -> Part:
        """Bytes between the store and all machines together."""
        return Part(name=name, seconds=size / self.speeds.machines.network, resource=resource, basis="given")

    def _basis(self, *names: str) -> Basis:
        return "derived" if self.speeds.derived(*names) else "measured"
