"""Whether the classes of a run still serve new images: sure labels, the same mixture, nothing dense far away (ours).

Images are far if their nearest images of the run are less similar than those of nearly all images of the run itself
are, class by class, by leave-one-out. A few always are; what announces a new class is that far images are nearer to
each other than to the run, many of them, in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom
from torch import Tensor
from torch.nn.functional import normalize

#: Share of a run's own images that count as unsure of their label, and as far from their class.
UNSURE, FAR = 0.05, 0.1
#: Times that share from which new images are too unsure (a classifier is surer of images that it has learned from: new
#: ones of the same classes came to 3 times), and total variation from which the mixture is another one; both beyond
#: what chance gives in one of `1 / CHANCE` samples of this size.
UNSURE_LIMIT, DRIFT_LIMIT, CHANCE = 4.0, 0.1, 1e-3
#: Nearest images of which the mean similarity is taken.
NEAREST = 5
#: Images that a candidate for a new class has at least, and their share of the new ones.
LEAST_IMAGES, LEAST_SHARE = 10, 0.02
#: Images of the run and of the new ones that are compared, at most: 6e8 similarities.
KNOWN_SAMPLE, NEW_SAMPLE = 20_000, 10_000
#: Images of a class that give a limit of its own; of fewer all classes' is taken.
_LEAST_OF_CLASS = 30
_DRAWS, _BLOCK_ROWS = 2000, 2048


@dataclass(frozen=True)
class Finding:
    """A figure of new images and what it may be at most before the classes do not serve them."""

    value: float
    limit: float

    @property
    def alarming(self) -> bool:
        """Whether it is above the limit."""
        return self.value > self.limit


def unsure(known: NDArray[np.floating], new: NDArray[np.floating]) -> Finding:
    """Share of new images with a lower confidence than all but `UNSURE` of the run's own.

    Args:
        known: float[R], confidences of the run's images, R > 0.
        new: float[M], of the new ones, M > 0.
    """
    expected = UNSURE_LIMIT * UNSURE
    limit = float(binom.ppf(1.0 - CHANCE, len(new), expected)) / len(new)
    return Finding(float((new < np.quantile(known, UNSURE)).mean()), limit)


def drift(known: NDArray[np.integer], new: NDArray[np.integer], seed: int = 0) -> Finding:
    """Total variation of the shares of the classes, and what samples of these sizes differ by at most.

    The limit is the quantile `1 - CHANCE` over draws of both samples from one mixture, and at least `DRIFT_LIMIT`.

    Args:
        known: int[K], sizes of the classes in the run; not all 0.
        new: int[K], in the new images; not all 0.
        seed: of the draws.
    """
    random, sizes = np.random.default_rng(seed), (int(known.sum()), int(new.sum()))
    mixture = (known + new) / sum(sizes)
    one, other = (random.multinomial(size, mixture, size=_DRAWS) / size for size in sizes)
    chance = float(np.quantile(np.abs(one - other).sum(axis=1) / 2, 1.0 - CHANCE))
    variation = float(np.abs(known / sizes[0] - new / sizes[1]).sum() / 2)
    return Finding(variation, max(DRIFT_LIMIT, chance))


@dataclass(frozen=True)
class Candidate:
    """New images that may be a class of their own.

    Attributes:
        rows: int64[m], those of the new images that are far and hold it together, most central first.
        images: how many of the new images lie nearer to these than to the run's, far ones or not.
    """

    rows: NDArray[np.int64]
    images: int


@dataclass(frozen=True)
class Far:
    """New images that are far from every class of a run, as a share of all, and the dense regions among them."""

    share: float
    candidates: list[Candidate]


def far_images(known: Tensor, label: NDArray[np.integer], new: Tensor) -> Far:
    """What lies far from every class; candidates by size, the largest first.

    Args:
        known: [R, D] features of a sample of the run, R > 1.
        label: int[R], their classes.
        new: [M, D] features of new images, M > 0; rows of both have a direction.
    """
    ours, theirs = normalize(known.float(), dim=1), normalize(new.float(), dim=1)
    own, nearest = _nearest(ours, ours, itself=True)
    limit = _limits(own.mean(axis=1), label[nearest[:, 0]], int(label.max()) + 1)
    similarity, nearest = _nearest(theirs, ours)
    to_run = similarity.mean(axis=1)
    rows = np.flatnonzero(to_run < limit[label[nearest[:, 0]]])
    least = max(LEAST_IMAGES, int(np.ceil(LEAST_SHARE * len(new))))
    if len(rows) <= NEAREST:
        return Far(len(rows) / len(new), [])
    pieces = [rows[piece] for piece in _pieces(theirs[torch.from_numpy(rows)], to_run[rows]) if len(piece) >= least]
    found = [Candidate(piece, _drawn(theirs, theirs[torch.from_numpy(piece)], piece, to_run)) for piece in pieces]
    return Far(len(rows) / len(new), sorted(found, key=lambda one: -len(one.rows)))


def _limits(own: NDArray[np.floating], label: NDArray[np.integer], classes: int) -> NDArray[np.floating]:
    """float[classes], similarity below which an image is far from a class."""
    limits = np.full(classes, np.quantile(own, FAR))
    for one in np.flatnonzero(np.bincount(label, minlength=classes) >= _LEAST_OF_CLASS):
        limits[one] = np.quantile(own[label == one], FAR)
    return limits


def _pieces(far: Tensor, to_run: NDArray[np.floating]) -> list[NDArray[np.int64]]:
    """Rows of `far` that hang together: nearer to their nearest among themselves than to the run; central first."""
    similarity, nearest = _nearest(far, far, itself=True)
    dense = similarity.mean(axis=1) > to_run
    one, other = np.repeat(np.arange(len(far)), nearest.shape[1]), nearest.ravel()
    kept = dense[one] & dense[other] & (similarity.ravel() > np.maximum(to_run[one], to_run[other]))
    graph = csr_array((np.ones(kept.sum()), (one[kept], other[kept])), shape=(len(far), len(far)))
    count, piece = connected_components(graph, directed=False)
    members = [np.flatnonzero((piece == number) & dense) for number in range(count)]
    central = (normalize(far[torch.from_numpy(rows)].mean(0), dim=0) for rows in members if len(rows))
    members = [rows for rows in members if len(rows)]
    return [
        rows[np.argsort(-(far[torch.from_numpy(rows)] @ centre).numpy(), kind="stable")]
        for rows, centre in zip(members, central, strict=True)
    ]


def _drawn(new: Tensor, piece: Tensor, rows: NDArray[np.int64], to_run: NDArray[np.floating]) -> int:
    """Images that are nearer to a piece than to the run; those of the piece are not their own neighbours."""
    similarity, nearest = _nearest(new, piece, count=NEAREST + 1)
    itself = rows[nearest] == np.arange(len(new))[:, None]
    others = np.where(itself, -np.inf, similarity)
    mean = -np.sort(-others, axis=1)[:, :NEAREST]
    return int((np.where(np.isfinite(mean), mean, 0.0).sum(axis=1) / np.isfinite(mean).sum(axis=1) > to_run).sum())


def _nearest(
    rows: Tensor, among: Tensor, *, itself: bool = False, count: int = NEAREST
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and numbers of the nearest of unit vectors, float32 and int64 [n, count or fewer]; the row itself not.

    `itself`: both are the same rows.
    """
    values, numbers = [], []
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        products = block @ among.T
        if itself:
            products[torch.arange(len(block)), torch.arange(start, start + len(block))] = -torch.inf
        top = products.topk(min(count, len(among) - itself), dim=1)
        values.append(top.values)
        numbers.append(top.indices)
    return torch.cat(values).numpy(), torch.cat(numbers).numpy()
