"""What neighbours and heads see of the features: their mean subtracted, their first principal components (ours).

Features after a ReLU, or of histograms, all point one way: random pairs have cosines of 0.4 and more, and no threshold
tells them from neighbours. Less the mean, random pairs have cosines around 0 whatever the backbone, so that one
threshold serves; what is left out beyond the first components is mostly noise, and most of the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Moments:
    """Sums over rows [n, D], in float64: those of disjoint rows add up to those of all."""

    count: int
    total: Tensor
    """float64[D], of the rows."""
    unit: Tensor
    """float64[D], of the rows scaled to length one, those of zeros left out."""
    products: Tensor
    """float64[D, D], of the products of two columns; empty where nobody projects."""

    @classmethod
    def of(cls, rows: Tensor, *, products: bool = True) -> Moments:
        """Of rows [n, D] of any float type."""
        none = torch.zeros(0, 0, dtype=torch.float64, device=rows.device)
        sums = [cls._of_block(block.double(), products, none) for block in rows.split(BLOCK_ROWS)]
        return sum_moments(sums)

    @classmethod
    def _of_block(cls, wide: Tensor, products: bool, none: Tensor) -> Moments:
        unit = torch.nn.functional.normalize(wide, dim=1)
        return cls(len(wide), wide.sum(0), unit.sum(0), wide.T @ wide if products else none)

    @property
    def mean_cosine(self) -> float:
        """Of two rows drawn at random, in [0, 1]."""
        return min(1.0, float((self.unit / self.count).square().sum()))


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """Of all rows together."""
    first, *rest = parts
    for part in rest:
        first = Moments(
            first.count + part.count,
            first.total + part.total,
            first.unit + part.unit,
            first.products + part.products,
        )
    return first


@dataclass(frozen=True)
class Projection:
    """`(x - mean) @ directions`: principal components, scaled to a mean square of one over all rows and components."""

    mean: Tensor
    """float64[D]."""
    directions: Tensor
    """float64[D, C], orthogonal, by descending variance, of one length."""

    @classmethod
    def of(cls, moments: Moments, components: int) -> Projection:
        """Onto the first of the principal components. Raises ValueError for more of them than dimensions."""
        dim = len(moments.total)
        if components > dim:
            raise ValueError(f"components = {components} of features of {dim} dimensions; take at most {dim}")
        mean = moments.total / moments.count
        variances, vectors = torch.linalg.eigh(moments.products / moments.count - torch.outer(mean, mean))
        vectors = vectors[:, -components:].flip(1)
        # The sign of a component is free: its largest entry is positive, whatever the library.
        vectors *= vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        scale = math.sqrt(max(0.0, float(variances[-components:].mean())))
        return cls(mean, vectors / scale if scale > 0 else vectors)

    def apply(self, rows: Tensor) -> Tensor:
        """Rows [n, D] as float16[n, C].

        Computed in float64 and rounded, so that a row's result does not depend on the rows beside it. A row at the
        mean has no direction; it gets a short one along the first component, since neighbours need one.
        """
        projected = torch.cat([self._rounded(block.double()) for block in rows.split(BLOCK_ROWS)])
        projected[~projected.any(dim=1), 0] = torch.finfo(torch.float16).eps
        return projected

    def of_array(self, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        """The same of rows [n, D] of an array, which is not changed."""
        return self.apply(torch.tensor(rows)).numpy()

    def _rounded(self, wide: Tensor) -> Tensor:
        largest = torch.finfo(torch.float16).max
        return ((wide - self.mean) @ self.directions).clamp_(-largest, largest).half()
