"""Names for classes: the mean direction of their images among the directions of words, in one space of both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

#: What a word is put into, and its directions averaged (CLIP's, arXiv 2103.00020, 3.1.4); the first serves alone where
#: words are many. Seven of the 80 that its authors picked for ImageNet carry most of what all of them gain.
TEMPLATES = (
    "a photo of a {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [n, D] divided by their lengths; zero stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).astype(np.float32)


def most_confident(
    label: NDArray[np.integer], confidence: NDArray[np.floating], classes: int, count: int
) -> NDArray[np.int64]:
    """Rows of the `count` highest confidences of each label, of equals the first; ascending."""
    order = np.lexsort((np.arange(len(label)), -confidence, label))
    ranked = label[order]
    place = np.arange(len(order)) - np.searchsorted(ranked, np.arange(classes))[ranked]
    return np.sort(order[place < count])


def closest(
    means: NDArray[np.float32], words: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `count` words with the highest cosine to each class, the highest first, of equals the first word.

    Args:
        means: float32 [K, D], of length 1, or zero for a class without images.
        words: float32 [V, D], of length 1.
        count: how many, at most V.

    Returns (words int64 [K, count], cosines float32 [K, count]).
    """
    cosines = means @ words.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)


def one_each(means: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.int64]:
    """Another word for each class, int64 [K], of the greatest sum of cosines (Hungarian). Needs V of at least K."""
    return linear_sum_assignment(means @ words.T, maximize=True)[1]
