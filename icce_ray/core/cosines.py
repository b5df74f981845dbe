"""Cosines between rows and prototypes, with their gradient written out (the last layer of a head, TEMI).

`F.normalize` and a product are the same maths; but its backward pass alone reads and writes the rows seven times, and
in bfloat16 converts them besides: a third of the step. Here the length of a row divides its K products instead of its
entries, and the backward pass touches the rows once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SHORTEST = 1e-12  # as F.normalize: a row of zeros has cosines of zero


class _Cosines(torch.autograd.Function):
    """`rows / |rows| @ unit.T / temperature`; see `cosines`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, unit: Tensor, temperature: float) -> Tensor:
        wide = torch.promote_types(rows.dtype, torch.float32)
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=wide).clamp_min_(_SHORTEST)
        found = torch.bmm(rows, unit.transpose(1, 2)).to(wide).div_(length * temperature)
        ctx.save_for_backward(rows, unit, length, found)
        ctx.temperature = temperature
        return found

    @staticmethod
    @once_differentiable  # lengths are saved, not differentiated again
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        rows, unit, length, found = ctx.saved_tensors
        # The length is in the denominator: the gradient is that of the products, less its part along the row.
        along = torch.linalg.vecdot(grad, found)[..., None] / length.square()
        through = (grad / (length * ctx.temperature)).to(rows.dtype)
        to_rows = torch.bmm(through, unit).addcmul_(rows, along.to(rows.dtype), value=-1.0)
        return to_rows, torch.bmm(through.transpose(1, 2), rows), None


def cosines(rows: Tensor, prototypes: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cosines of `rows` [h, n, D] to `prototypes` [h, K, D] over the temperature, [h, n, K].

    The products are computed in the type of `rows`, float32 or bfloat16 (or float64, for tests); lengths, and what is
    returned, are float32 at least. Prototypes may have any type and length.
    """
    unit = F.normalize(prototypes, dim=-1).to(rows.dtype)
    return cast(Tensor, _Cosines.apply(rows, unit, temperature))
