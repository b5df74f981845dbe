"""Images with quality trouble, by figures of each picture and how these lie over the whole collection.

A figure is trouble where it is beyond a fixed limit and, where collections differ in what is usual, also far from the
collection's median: a collection of night skies is not all dark, scans of 32 pixels are not all blurred. How far is
usual is taken from the better half of the images alone, so that much trouble does not make trouble usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", float, NDArray[np.floating])
Figures = Mapping[str, NDArray[np.number]]
"""Columns width, height, brightness, contrast and sharpness of n images, as `io.quality` measures them."""

_BLACK = 1 / 256
#: Bars of the histograms that limits are found by.
BARS = 2048


class Problem(NamedTuple):
    """One kind of trouble, of values that are low where there is trouble.

    Attributes:
        low, high: between these its histogram is kept.
        fixed: limit whatever the collection is like.
        below: how far below the median a value must lie.
        spreads: how many standard deviations below it.
    """

    low: float
    high: float
    fixed: float = np.inf
    below: float = 0.0
    spreads: float = 0.0


#: In the order in which they are looked for.
PROBLEMS = {
    "blank": Problem(0, 1, fixed=0.02),
    "dark": Problem(-8, 0, fixed=np.log2(0.3), below=1.0),
    "bright": Problem(-8, 0, fixed=np.log2(0.3), below=1.0),
    "blurred": Problem(-4, 0, fixed=-1.1, below=0.3, spreads=2.5),
    "small": Problem(0, 17, below=2.0, spreads=3.5),
    "narrow": Problem(-17, 0, below=np.log2(3)),
}
#: Of a blank picture nothing else is said: it is neither dark, bright nor blurred.
_OF_BLANK = ("blank", "small", "narrow")


def values(figures: Figures) -> dict[str, NDArray[np.floating]]:
    """What is judged, by problem, [n]: logarithms to base 2 but of the contrast."""
    width, height, brightness, contrast, sharpness = (
        np.asarray(figures[name], np.float64) for name in ("width", "height", "brightness", "contrast", "sharpness")
    )
    return {
        "blank": contrast,
        "dark": np.log2(np.maximum(brightness + contrast / 2, _BLACK)),
        "bright": np.log2(np.maximum(1 - (brightness - contrast / 2), _BLACK)),
        "blurred": np.log2(sharpness),
        "small": np.log2(width * height) / 2,
        "narrow": -np.abs(np.log2(width / height)),
    }


def shown(problem: str, value: Value) -> Value:
    """Values as people read them: contrast; brightness of the brightest and of the darkest hundredth; sharpness; side
    of the square of as many pixels; shorter side by longer side.
    """
    return value if problem == "blank" else 1 - 2**value if problem == "bright" else 2**value


def histograms(figures: Figures) -> NDArray[np.int64]:
    """How the values lie, int64[problems, BARS]; those of several parts of a collection are added."""
    found = values(figures)
    return np.stack(
        [
            np.histogram(np.clip(found[name], one.low, one.high), BARS, (one.low, one.high))[0]
            for name, one in PROBLEMS.items()
        ]
    )


def limits(counts: NDArray[np.int64]) -> dict[str, float]:
    """The value below which an image has each problem, from the histograms of all images."""
    found = {}
    for (name, one), bars in zip(PROBLEMS.items(), counts, strict=True):
        middle, better = _quantile(bars, 0.5, one), _quantile(bars, 0.8413, one)
        found[name] = one.fixed
        if one.below or one.spreads:
            found[name] = min(one.fixed, middle - max(one.below, one.spreads * (better - middle)))
    return found


def _quantile(bars: NDArray[np.int64], share: float, one: Problem) -> float:
    """The middle of the bar in which the quantile lies; of no images the best value."""
    if not bars.sum():
        return one.high
    bar = int(np.searchsorted(np.cumsum(bars), share * bars.sum()))
    return one.low + (bar + 0.5) * (one.high - one.low) / BARS


def flagged(figures: Figures, limit: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
    """Which images have each problem, bool[n]."""
    found = values(figures)
    blank = found["blank"] < limit["blank"]
    return {name: (found[name] < limit[name]) & (~blank | (name in _OF_BLANK)) for name in PROBLEMS}
