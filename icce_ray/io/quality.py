"""Figures of one picture that say whether it is good to look at, measured beside decoding, and of its file.

Cheap on purpose: a grid of some 128 x 128 points of the picture is looked at, whatever its size, so that figures of
large and small pictures compare, and a photograph costs about a third of a millisecond beside its digest. Points are
taken, not means of what lies between: blur stays blur, and what is sharp may look sharper than it is.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from icce_ray.core.picture_hash import HASH_PIXELS, picture_hash

#: Points a side of a square picture.
GRID = 128
#: An octave is compared where the smaller picture has so many points along its shorter side; below GRID / 8 on average
#: there are too few for a figure.
_FEWEST = 10
#: Energy that counts as none: that of values rounded to whole numbers, about, once they are averaged.
_FLOOR = 0.05


class Figures(NamedTuple):
    """What is measured of one image.

    Attributes:
        width, height: in pixels, as the picture is shown, before any resizing.
        digest: BLAKE2b of the file's bytes, 16 of them: the same for exact copies.
        brightness: midway between `contrast`'s two, 0 (black) to 1 (white).
        contrast: between the luminance of which 1 % of the picture is darker, and of which 1 % is brighter, 0 to 1.
        sharpness: how much less detail there is than an octave coarser, at the octave where that is least; see
            `sharpness`.
        picture_hash: perceptual, HASH_BYTES of it: nearly the same for copies that differ in little.
    """

    width: int
    height: int
    digest: bytes
    brightness: float
    contrast: float
    sharpness: float
    picture_hash: bytes


def measured(image: Image.Image, size: tuple[int, int], data: bytes) -> Figures:
    """Figures of a picture of mode RGB or L, which may be reduced; `size` is that of the whole, `data` its file."""
    step = max(1, round(math.sqrt(image.width * image.height) / GRID))
    points = (max(1, image.width // step), max(1, image.height // step))
    grey = (image if step == 1 else image.resize(points, Image.Resampling.NEAREST)).convert("L")
    below = list(itertools.accumulate(grey.histogram()))
    dark, bright = (bisect.bisect_left(below, share * below[-1]) for share in (0.01, 0.99))
    return Figures(
        *size,
        hashlib.blake2b(data, digest_size=16).digest(),
        (dark + bright) / 510,
        (bright - dark) / 255,
        sharpness(np.asarray(grey, np.float32)),
        picture_hash(np.asarray(grey.resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.BILINEAR))),
    )


def sharpness(grey: np.ndarray) -> float:
    """The least ratio, over octaves, of the detail of grey float32 [H, W], 0 to 255, to that of its half.

    Detail is the root mean square of the Laplacian. Natural pictures have about as much at every scale, whatever they
    show (Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    JOSA A 1987): 0.6 to 1. Blur takes away all of it below some scale: 0.3 to 0.5. So no picture counts as blurred for
    what it shows, as by the variance of the Laplacian alone (Pech-Pacheco et al., ICPR 2000). 1 where a picture is too
    small to tell.
    """
    least, fine = 1.0, None
    while min(grey.shape) >= 2 * _FEWEST and grey.size >= (GRID // 5) ** 2:
        fine = _detail(grey) if fine is None else fine
        grey = _halved(grey)
        coarse = _detail(grey)
        least, fine = min(least, math.sqrt((fine + _FLOOR) / (coarse + _FLOOR))), coarse
    return least


def _detail(grey: np.ndarray) -> float:
    """Mean square of the Laplacian."""
    laplacian = grey[1:-1, 1:-1] * np.float32(-4)
    for neighbour in (grey[:-2, 1:-1], grey[2:, 1:-1], grey[1:-1, :-2], grey[1:-1, 2:]):
        laplacian += neighbour
    values = laplacian.ravel()
    return float(values @ values) / values.size


def _halved(grey: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 values; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in grey.shape)
    rows = grey[:height:2, :width] + grey[1:height:2, :width]
    return (rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25)
