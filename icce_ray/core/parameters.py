"""Ranges of the estimator's parameters, checked before any work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from icce_ray.core.cluster_count import counts_to_try
from icce_ray.core.consensus import METHODS
from icce_ray.core.neighbors import Limits

#: Lowest and highest value of each number; those with an integer as lowest value are integers.
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("n_clusters", "k_min", "heads", "hidden", "bottleneck", "epochs", "batch_size"), (1, math.inf)),
    **dict.fromkeys(("sinkhorn_iterations", "smoothing_neighbors", "iterations"), (1, math.inf)),
    "warmup_epochs": (0, math.inf),
    "threshold": (-1.0, 1.0),
    **dict.fromkeys(("learning_rate", "weight_decay", "ce_weight"), (0.0, math.inf)),
    **dict.fromkeys(("student_temperature", "teacher_temperature"), (1e-3, math.inf)),
    **dict.fromkeys(("teacher_momentum", "marginal_momentum", "beta"), (0.0, 1.0)),
    **dict.fromkeys(("prior_strength", "prior_momentum"), (0.0, 1.0)),
    "holdout": (0.0, 0.9),
}
CHOICES = {
    "teacher": ("sinkhorn", "softmax"),
    "cluster_prior": ("uniform", "estimated"),
    "input_norm": ("batchnorm", "standardize"),
}


def check_parameters(values: Mapping[str, Any]) -> None:
    """Raise ValueError on a value out of its range, TypeError on what is not a number, of the estimator's parameters.

    The number of clusters may be "auto", and so may the threshold, for at least 2 clusters.
    """
    for name, (low, high) in LIMITS.items():
        if name in ("n_clusters", "threshold") and values[name] == "auto":
            continue
        kind = Integral if isinstance(low, int) else Real
        value = values[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be {'an integer' if kind is Integral else 'a number'}")
        if not low <= float(value) <= high:
            raise ValueError(f"{name}={value!r} must lie in [{low}, {high}]")
    for name, allowed in CHOICES.items():
        if values[name] not in allowed:
            raise ValueError(f"{name}={values[name]!r} must be one of {allowed}")
    counts_to_try(*values["cluster_range"])
    methods = values["consensus_methods"]
    if set(methods) - set(METHODS) or not methods:
        raise ValueError(f"consensus_methods={methods!r} must be some of {METHODS}")
    if values["threshold"] == "auto":
        if values["n_clusters"] == 1:
            raise ValueError("threshold='auto' with n_clusters=1: it is found for at least 2 clusters; give a number")
        Limits(0.0, values["k_min"], values["k_max"] or values["k_min"])
    elif values["k_max"] is not None:
        Limits(values["threshold"], values["k_min"], values["k_max"])


def check_sizes(n_samples: int, n_clusters: int | str, k_min: int) -> None:
    """Raise ValueError on fewer rows than clusters, warn of clusters with fewer rows than neighbours."""
    if isinstance(n_clusters, str):  # "auto"
        return
    if n_samples < n_clusters:
        raise ValueError(f"n_samples={n_samples} should be >= n_clusters={n_clusters}; lower n_clusters")
    if k_min > n_samples / n_clusters:
        warnings.warn(
            f"k_min={k_min} neighbours are more than a cluster of {n_samples} / {n_clusters} samples "
            "has: neighbours will be taken from other clusters; lower k_min",
            stacklevel=3,
        )
