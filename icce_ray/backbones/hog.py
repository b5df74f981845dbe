"""Histograms of oriented gradients, with or without a coarse colour layout: features that need no weights.

HOG: Dalal and Triggs, CVPR 2005, scikit-image's implementation. One block of 6 x 6 cells, 9 unsigned orientations,
L2-Hys: chosen among a dozen layouts on digits (8 x 8) and MNIST for its leave-one-out 20-NN accuracy by cosine,
98.9 % and 97.6 %. The one block makes it fast as well: with overlapping blocks of 2 x 2 cells scikit-image's own loop
over blocks, in Python, takes most of the time, 1,500 instead of 10,000 images per second and core at 32 x 32.

All entries of HOG are positive, so cosines are high: on digits 0.55 on average within a class and 0.35 between classes.
A neighbour threshold made for DINOv2 (0.3) selects nearly everything here; 0.6 is the like of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.color import rgb2lab
from skimage.feature import hog

from icce_ray.backbones import BackboneError, BackboneInfo, Features, check_pixels, chosen_features

KINDS = ("hog+color", "hog")
DEFAULT_SIZE = 32
COLOR_SHARE = 0.2  # of the squared length; 20-NN on 10,000 CIFAR-10 images: 46 % without colour, 51 % with it

CELLS, ORIENTATIONS = 6, 9
GRID = 4
_HOG_DIM = CELLS * CELLS * ORIENTATIONS
_COLOR_DIM = GRID * GRID * 3
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MIDDLE = np.array([50.0, 0.0, 0.0], np.float32)  # of Lab: lightness runs from 0 to 100


def describe(name: str, features: str | None, *, n_last_blocks: int, image_size: int | None) -> BackboneInfo:
    """See `describe_backbone`. `image_size` is at least 24, so that a cell has 4 x 4 pixels, and a multiple of 4."""
    features = chosen_features(name, features, KINDS)
    size = DEFAULT_SIZE if image_size is None else image_size
    if n_last_blocks > 1:
        raise BackboneError(f"n_last_blocks is {n_last_blocks}, but hog has no blocks; set it to 1")
    if size < 4 * CELLS or size % GRID:
        raise BackboneError(f"image_size {size} does not fit hog; use a multiple of {GRID} from {4 * CELLS} on")
    layout = {"hog": (0, _HOG_DIM)}
    if features == "hog+color":
        layout["color"] = (_HOG_DIM, _HOG_DIM + _COLOR_DIM)
    dim = max(stop for _, stop in layout.values())
    return BackboneInfo(name=name, features=features, dim=dim, image_size=size, layout=layout, block_dim=0)


def load(info: BackboneInfo, *, device: str, dtype: str) -> Hog:
    """See `load_backbone`."""
    return Hog(info)


class Hog:
    """`Backbone` of HOG (324 values) and, for `hog+color`, the mean Lab colours of a 4 x 4 grid (48 values).

    Each part is scaled to a fixed length: HOG alone 1; with colour sqrt(0.8) and sqrt(0.2), so that colour decides a
    fifth of a cosine. A part without content (no gradient at all; mid-grey) stays zero.
    """

    def __init__(self, info: BackboneInfo) -> None:
        self.info = info
        # Cells are at least 4 pixels wide; what does not divide by 6 is left out on the right and below: but for the
        # pixel that the last gradients need, as scikit-image would find a seventh cell in 28 pixels.
        self._cell = info.image_size // CELLS
        self._side = CELLS * self._cell + 1

    def embed(self, pixels: np.ndarray) -> Features:
        """main float32 [B, 324 or 372] of pixels uint8 [B, S, S, 3]; no blocks."""
        check_pixels(pixels, self.info.image_size)
        shape = np.empty((len(pixels), _HOG_DIM), np.float32)
        for row, image in enumerate(pixels):
            shape[row] = hog(
                image[: self._side, : self._side] @ LUMA,
                orientations=ORIENTATIONS,
                pixels_per_cell=(self._cell, self._cell),
                cells_per_block=(CELLS, CELLS),
            )
        if "color" not in self.info.layout:
            return Features(_unit(shape))
        color = _unit(self._color(pixels))
        parts = [_unit(shape) * np.float32((1 - COLOR_SHARE) ** 0.5), color * np.float32(COLOR_SHARE**0.5)]
        return Features(np.concatenate(parts, axis=1))

    def module(self) -> Any:
        """The same in operations of torch."""
        from icce_ray.backbones.hog_module import HogModule  # torch takes a second, which `embed` does not need

        return HogModule(self.info)

    def _color(self, pixels: np.ndarray) -> np.ndarray:
        """Mean colours of the grid in Lab, from mid-grey: float32 [B, 48]."""
        cell = self.info.image_size // GRID
        cells = pixels.reshape(len(pixels), GRID, cell, GRID, cell, 3)
        means = cells.mean(axis=(2, 4), dtype=np.float32) / np.float32(255)
        return (rgb2lab(means) - MIDDLE).reshape(len(pixels), _COLOR_DIM).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
