"""Hyperparameters: the only place of their defaults and ranges, for settings and estimator; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16"]
Parallelism = Literal["heads", "data"]
Teacher = Literal["sinkhorn", "softmax"]
ClusterPrior = Literal["uniform", "estimated"]
InputNorm = Literal["batchnorm", "standardize"]

#: Cosine similarity from which an image is a neighbour, and fewest neighbours (paper 4.2).
THRESHOLD, K_MIN = 0.3, 50
#: Where an unknown number of clusters is looked for.
CLUSTER_RANGE = (4, 256)
#: DINOv2's learning rates, for a batch of 256; they scale linearly with the batch.
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
#: Share of images whose consensus labels choose the classifier (ours).
HOLDOUT = 0.1
_COUNT, _WEIGHT = {"ge": 1, "le": 2**31 - 1}, {"ge": 0.0}
_WIDTH, _TEMPERATURE, _MOMENTUM = {"ge": 1, "le": 65_536}, {"gt": 0.0}, {"ge": 0.0, "lt": 1.0}
#: Ranges of the numbers, in pydantic's words; those with integers as bounds are integers.
BOUNDS: dict[str, dict[str, Any]] = {
    "components": {"ge": 0, "le": 2**31 - 1},
    "threshold": {"ge": -1.0, "le": 1.0},
    "k_min": _COUNT,
    "heads": {"ge": 1, "le": 10_000},
    "hidden": _WIDTH,
    "bottleneck": _WIDTH,
    "epochs": {"ge": 1, "le": 1_000_000},
    "batch_size": {"ge": 1, "le": 2**24},
    "learning_rate": {"gt": 0.0},
    "warmup_epochs": {"ge": 0},
    "weight_decay": _WEIGHT,
    "student_temperature": _TEMPERATURE,
    "teacher_temperature": _TEMPERATURE,
    "teacher_momentum": _MOMENTUM,
    "marginal_momentum": _MOMENTUM,
    "beta": {"gt": 0.0, "le": 1.0},
    "ce_weight": _WEIGHT,
    "sinkhorn_iterations": {"ge": 1, "le": 10_000},
    "prior_strength": {"ge": 0.0, "le": 1.0},
    "prior_momentum": _MOMENTUM,
    "smoothing_neighbors": _COUNT,
    "iterations": {"ge": 1, "le": 1_000_000_000},
    # Above these the classifiers diverge, or no image has any weight left in float32.
    "l2": {"ge": 0.0, "le": 10.0},
    "agreement_power": {"ge": 0.0, "le": 16.0},
    "holdout": {"gt": 0.0, "lt": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of head training; the defaults are the paper's (4.2) and TEMI's, fields as in the settings."""

    heads: int = 50
    hidden: int = 512
    bottleneck: int = 256
    epochs: int = 400
    batch_size: int = 1024
    learning_rate: float = 1e-4
    warmup_epochs: int = 20
    weight_decay: float = 1e-4
    student_temperature: float = 0.1
    teacher_temperature: float = 0.1
    teacher_momentum: float = 0.996
    marginal_momentum: float = 0.9
    beta: float = 0.6
    ce_weight: float = 1.0
    teacher: Teacher = "sinkhorn"
    sinkhorn_iterations: int = 3
    cluster_prior: ClusterPrior = "uniform"
    prior_strength: float = 1.0
    prior_momentum: float = 0.99
    input_norm: InputNorm = "batchnorm"
    smoothing_neighbors: int = 1

    @property
    def unbalanced(self) -> bool:
        """Whether Sinkhorn's columns are anything but equal, as the paper has them."""
        return self.teacher == "sinkhorn" and (self.cluster_prior != "uniform" or self.prior_strength != 1.0)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a training is computed, which changes its speed, and its result only by rounding."""

    parallelism: Parallelism = "heads"
    """Whether workers share the heads or the pairs of a batch."""
    precision: Precision = "auto"
    """Of matrix products; `auto` is bfloat16 on CUDA."""
    compiled: bool = False
    """Whether torch.compile fuses the forward passes."""
    chunk: int | None = None
    """Heads in one batched product; None fits the device."""


@dataclass(frozen=True, kw_only=True)
class GridRecipe:
    """Hyperparameters of the grid of linear classifiers (paper 4.2; DINOv2's linear protocol)."""

    learning_rates: tuple[float, ...] = LEARNING_RATES
    batch_size: int = 1024
    iterations: int = 12_500
    holdout: float = HOLDOUT
    l2: float = 0.0
    agreement_power: float = 0.0


def product_precision(precision: Precision, device_type: str) -> Literal["float32", "bfloat16"]:
    """What `precision` means for matrix products on a device: `auto` is bfloat16 on CUDA, float32 elsewhere."""
    if precision != "auto":
        return precision
    return "bfloat16" if device_type == "cuda" else "float32"
