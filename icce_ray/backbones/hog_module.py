"""HOG and its colours in torch operations, for predictors that leave Python: the numbers that scikit-image gives `hog`.

An orientation's bin is found by the sides of the bins' edges on which the gradient lies, without its angle: ONNX has no
arctangent of two arguments. Only a gradient within float32's rounding of an edge may fall into the other bin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from icce_ray.backbones import BackboneInfo
from icce_ray.backbones.hog import CELLS, COLOR_SHARE, GRID, LUMA, MIDDLE, ORIENTATIONS

_CLIP, _EPSILON = 0.2, 1e-5  # of L2-Hys, as scikit-image has them
# sRGB to XYZ under the illuminant D65 for an observer of 2 degrees, and XYZ to Lab (CIE; scikit-image's rgb2lab).
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


class HogModule(torch.nn.Module):
    """Features float32 [B, 324 or 372] of pixels uint8 [B, S, S, 3], as the backbone gives them."""

    edges: Tensor
    luma: Tensor
    xyz: Tensor
    middle: Tensor

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        self.cell, self.patch = info.image_size // CELLS, info.image_size // GRID
        self.colored = "color" in info.layout
        angles = [math.pi * edge / ORIENTATIONS for edge in range(1, ORIENTATIONS)]
        edges = [[math.cos(angle), -math.sin(angle)] for angle in angles]
        self.register_buffer("edges", torch.tensor(edges))
        self.register_buffer("luma", torch.from_numpy(LUMA))
        self.register_buffer("xyz", torch.tensor(_XYZ) / torch.tensor(_WHITE)[:, None])
        self.register_buffer("middle", torch.from_numpy(MIDDLE))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        shape = _unit(self._shape(pixels.float()))
        if not self.colored:
            return shape
        color = _unit(self._color(pixels.float()))
        return torch.cat([shape * (1 - COLOR_SHARE) ** 0.5, color * COLOR_SHARE**0.5], dim=1)

    def _shape(self, pixels: Tensor) -> Tensor:
        """One block of histograms, normalised by L2-Hys: float32 [B, 324] of float32 [B, S, S, 3]."""
        parts = pixels * self.luma
        grey = parts[..., 0] + parts[..., 1] + parts[..., 2]
        # Central differences; the border has none.
        down = functional.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
        right = functional.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))
        # Opposite directions are one orientation: turned into the half-circle from 0 up to, without it, 180 degrees.
        turned = torch.where((down < 0) | ((down == 0) & (right < 0)), -1.0, 1.0)
        directions = torch.stack([down * turned, right * turned], dim=-1)
        bins = ((directions @ self.edges.T) >= 0).sum(-1)
        votes = functional.one_hot(bins, ORIENTATIONS) * (down.square() + right.square()).sqrt()[..., None]
        cells = functional.avg_pool2d(votes.permute(0, 3, 1, 2), self.cell)[:, :, :CELLS, :CELLS]
        block = cells.permute(0, 2, 3, 1).flatten(1)
        return _scaled(_scaled(block).clamp(max=_CLIP))

    def _color(self, pixels: Tensor) -> Tensor:
        """Mean colours of the grid in Lab, from mid-grey: float32 [B, 48] of float32 [B, S, S, 3]."""
        means = functional.avg_pool2d(pixels.permute(0, 3, 1, 2), self.patch).permute(0, 2, 3, 1) / 255
        linear = torch.where(means > 0.04045, ((means + 0.055) / 1.055) ** 2.4, means / 12.92)
        xyz = linear @ self.xyz.T
        bent = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
        x, y, z = bent.unbind(-1)
        lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)
        return (lab - self.middle).flatten(1)


def _scaled(block: Tensor) -> Tensor:
    return block / (block.square().sum(1, keepdim=True) + _EPSILON**2).sqrt()


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; what is zero stays so."""
    return rows / rows.square().sum(1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
