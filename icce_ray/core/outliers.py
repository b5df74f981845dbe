"""Images that are far from all others: beyond what the distances of nearly all images allow (ours).

The distance is that to the RANK-th nearest of some reference images, a uniform sample: a handful of strange images that
are alike (ten screenshots among photographs) are near to each other, but to no more. It is taken in the features as
they are: with their mean subtracted, as neighbours may be sought, what is strange lies where everything is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

#: The reference image whose distance counts, of few a tenth of them; and how many references there are at most.
RANK, REFERENCES = 20, 4096
#: Robust standard deviations above the median from which an image is an outlier.
LIMIT = 3.5
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Distances:
    """Where the distances of nearly all images lie: their median and the upper half's robust standard deviation."""

    median: float
    deviation: float

    @classmethod
    def of(cls, distance: NDArray[np.floating]) -> Distances:
        """From distances of a uniform sample, float[n], n > 0."""
        median, upper = np.quantile(distance, [0.5, 0.9])
        return cls(float(median), max(float(upper - median) / 1.2816, 1e-6))

    def scores(self, distance: NDArray[np.floating]) -> NDArray[np.float32]:
        """Standard deviations above the median: float32[n]."""
        return ((distance - self.median) / self.deviation).astype(np.float32)


def distances(features: Tensor, references: Tensor, own: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance (1 - cosine) of images to the RANK-th nearest reference image but themselves: float32[n].

    Args:
        features: [n, D].
        references: [R, D], R > 1.
        own: bool[n], which of the images are among the references.
    """
    rank = min(RANK, -(-len(references) // 10))
    target = normalize(references.float(), dim=1)
    nearest = np.empty(len(features), np.float32)
    for start in range(0, len(features), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        similarity = (normalize(features[block].float(), dim=1) @ target.T).topk(rank + 1, dim=1).values.numpy()
        nearest[block] = np.where(own[block], similarity[:, rank], similarity[:, rank - 1])
    return 1.0 - nearest
