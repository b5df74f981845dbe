"""What every method of a study returns, and how it is asked: the same for ICCE, its parts and its rivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """A clustering of the rows a method was fitted on, and its rule for rows it has not seen."""

    labels: NDArray[np.int32]
    """int32[n] in [0, n_clusters), of the rows fitted."""
    predict: Callable[[Tensor], NDArray[np.int32]]
    """int32[m] in [0, n_clusters) of rows float32[m, D]."""


Fit = Callable[[Tensor, int, int], Fitted]
"""`fit(features, n_clusters, seed)`: features float32[n, D], not normalised. No method is ever given a label."""
