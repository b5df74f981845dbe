"""The estimator's parameters, checked before any work."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

from torch import Tensor

from icce_ray.core.automatic import Choice
from icce_ray.core.cluster_count import counts_to_try
from icce_ray.core.consensus import METHODS
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import BOUNDS, ClusterPrior, InputNorm, Teacher

#: Sums of squares of larger values may leave float32.
LARGEST = 1e15
_SIGNS = {"ge": (">=", operator.ge), "gt": (">", operator.gt), "le": ("<=", operator.le), "lt": ("<", operator.lt)}
#: What may be None: the recipe chooses it.
CHOSEN = frozenset(field.name for field in dataclasses.fields(Choice))
_CHOICES = {"teacher": Teacher, "cluster_prior": ClusterPrior, "input_norm": InputNorm}


def check_parameters(values: Mapping[str, Any]) -> None:
    """Raise ValueError on a value out of its range, TypeError on what is not a number, of the estimator's parameters.

    The number of clusters may be "auto", and so may the threshold, for at least 2 clusters.
    """
    for name, bounds in ({"n_clusters": {"ge": 1}} | BOUNDS).items():
        value = values[name]
        if (name in ("n_clusters", "threshold") and value == "auto") or (name in CHOSEN and value is None):
            continue
        kind = Integral if all(isinstance(bound, int) for bound in bounds.values()) else Real
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be {'an integer' if kind is Integral else 'a number'}")
        if not all(_SIGNS[sign][1](value, bound) for sign, bound in bounds.items()):
            limits = " and ".join(f"{_SIGNS[sign][0]} {bound}" for sign, bound in bounds.items())
            raise ValueError(f"{name}={value!r} must be {limits}")
    for name, choices in _CHOICES.items():
        if values[name] not in get_args(choices):
            raise ValueError(f"{name}={values[name]!r} must be one of {get_args(choices)}")
    counts_to_try(*values["cluster_range"])
    methods = values["consensus_methods"]
    if set(methods) - set(METHODS) or not methods:
        raise ValueError(f"consensus_methods={methods!r} must be some of {METHODS}")
    if values["threshold"] == "auto" and values["n_clusters"] == 1:
        raise ValueError("threshold='auto' with n_clusters=1: it is found for at least 2 clusters; give a number")
    if values["k_max"] is not None:
        Limits(0.0, values["k_min"] or 1, values["k_max"])


def check_sizes(n_samples: int, n_clusters: int | str, k_min: int | None) -> None:
    """Raise ValueError on fewer rows than clusters, warn of clusters with fewer rows than neighbours."""
    if isinstance(n_clusters, str):  # "auto"
        return
    if n_samples < n_clusters:
        raise ValueError(f"n_samples={n_samples} should be >= n_clusters={n_clusters}; lower n_clusters")
    if k_min is not None and k_min > n_samples / n_clusters:
        warnings.warn(
            f"k_min={k_min} neighbours are more than a cluster of {n_samples} / {n_clusters} samples "
            "has: neighbours will be taken from other clusters; lower k_min",
            stacklevel=3,
        )


def directed_rows(features: Tensor, name: str = "X") -> Tensor:
    """Which rows of `features` [n, D] are not zero, bool[n].

    Raises ValueError, which names them, for fewer than 2, or too large values.
    """
    largest = float(features.abs().max())
    if largest > LARGEST:
        raise ValueError(f"{name} holds {largest:g}; beyond {LARGEST:g} squares overflow float32: scale the columns")
    directed = features.any(dim=1)
    if directed.sum() < 2:
        zeros = int((~directed).sum())
        raise ValueError(f"{zeros} of {len(directed)} rows of {name} are zero; give at least 2 that are not")
    return directed


def matrices_of(X: Any) -> list[Any]:
    """The matrices of a list or tuple of them, one a feature space; anything else is one matrix, lists of rows too."""
    several = isinstance(X, (list, tuple)) and len(X) and all(getattr(one, "ndim", 0) == 2 for one in X)
    return list(X) if several else [X]


def named(matrices: Sequence[Any]) -> dict[str, Any]:
    """The matrices by the names that errors have for them."""
    return {"X": matrices[0]} if len(matrices) == 1 else {f"X[{i}]": one for i, one in enumerate(matrices)}


def check_spaces(matrices: Sequence[Any], fitted: Sequence[int] | None = None) -> None:
    """Raise ValueError on several matrices of different rows, or that are not of the spaces that were fitted.

    `fitted` are the columns of these; None before the fit.
    """
    if fitted is not None and len(matrices) != len(fitted):
        raise ValueError(
            f"X has {len(matrices)} feature spaces, but {len(fitted)} were fitted, of {list(fitted)} columns; give "
            "them in the same order, in a list where they are several"
        )
    if len(matrices) == 1:
        return
    rows, columns = ([one.shape[axis] for one in matrices] for axis in (0, 1))
    if len(set(rows)) > 1:
        raise ValueError(f"the feature spaces in X have {rows} rows; give the same images in the same order in each")
    if fitted is not None and columns != list(fitted):
        raise ValueError(f"the feature spaces in X have {columns} columns, those fitted {list(fitted)}; give the same")
