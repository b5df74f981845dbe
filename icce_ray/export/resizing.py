"""Pillow's antialiased resizing in torch operations, for predictors that take pictures of any size.

A resized row is a weighted sum of pixels, so a picture is multiplied by one matrix for its width and one for its
height, with Pillow's weights of 22 binary digits, and rounded to bytes after each: the bytes are Pillow's, in the
order that version 13 takes (found by trying 3,000 sizes). The operators of torch and ONNX Runtime were seen to differ
from it by up to 24 and 15 of 255 (photographs, noise).

The functions are compiled as they stand by torch.jit.script, and traced with unknown sizes by torch.export.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Filters that are served, of those of `io.rendering`.
FILTERS = ("bilinear", "bicubic")


def resize(pixels: Tensor, size: int, side: int, crop: bool, floor: bool, cubic: bool) -> Tensor:
    """uint8 [B, size, size, 3] of uint8 [B, H, W, 3], as `io.rendering.square` makes it.

    Both sides are resized to `side` pixels, or with `crop` only the shorter one, keeping the aspect ratio; then the
    centre is cut out, of an odd margin the smaller half before it with `floor`, else as `round` has it.
    """
    height, width = pixels.shape[1], pixels.shape[2]
    tall, wide = side, side
    if crop:
        least = min(height, width)
        tall, wide = height * side // least, width * side // least
    images = pixels.permute(0, 3, 1, 2).double()
    rows = _weights(height, tall, _half(tall - size, floor), size, cubic)
    columns = _weights(width, wide, _half(wide - size, floor), size, cubic).T
    height_first = torch.scalar_tensor(height - tall) > (2 * torch.scalar_tensor(width - wide)).clamp(min=0)
    if size >= 128:  # as of `io.rendering`, where torch, which takes the width first, shrinks what becomes so large
        height_first = height_first & (torch.scalar_tensor(min(height - tall, width - wide)) < 0)
    images = torch.where(height_first, _bytes(_bytes(rows @ images) @ columns), _bytes(rows @ _bytes(images @ columns)))
    return images.permute(0, 2, 3, 1).to(torch.uint8)


def _half(margin: int, floor: bool) -> int:
    """Half of a margin; `round` takes a half to the even number: 0, 2, 2, 4 of 1, 3, 5, 7."""
    return margin // 2 if floor else (margin + margin % 4 // 3) // 2


def _bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _weights(length: int, whole: int, first: int, size: int, cubic: bool) -> Tensor:
    """float64 [size, length]: pixels `first` to `first + size` of a row of `length` that is resized to `whole`.

    The kernel is a triangle, or Keys' cubic with a = -0.5, and widens where the row shrinks.
    """
    scale = torch.scalar_tensor(length, dtype=torch.float64) / torch.scalar_tensor(whole, dtype=torch.float64)
    centers = (torch.arange(size, dtype=torch.float64) + first + 0.5) * scale
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    x = ((pixels - centers[:, None]) / scale.clamp(min=1.0)).abs()
    if cubic:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        weights = torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))
    else:
        weights = (1.0 - x).clamp(min=0.0)
    parts = 4194304.0  # 2 ** 22: Pillow's weights are whole numbers of them
    weights = weights / weights.sum(1, keepdim=True) * parts
    return weights.sign() * (weights.abs() + 0.5).floor() / parts
