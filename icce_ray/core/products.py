"""A fast, coarse product of unit rows that over-selects: which pairs may reach a similarity, by a rigorous bound.

Products are computed in half precision where the hardware multiplies it several times faster, and selected as integers
that stand in the order of the floats they are the bits of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def rounding_margin(dim: int) -> float:
    """Twice the largest rounding error of a float32 dot product of two unit vectors of `dim` entries.

    |fl(x.y) - x.y| <= dim * 2^-24 * sum |x_i y_i| for any order of summation (Higham, Accuracy and Stability,
    section 3.1), and the sum is at most 1 by Cauchy-Schwarz. Twice, as two such products are compared; two units more
    for the rounding of the unit vectors' lengths and of the threshold itself.
    """
    return 2.0 * (dim + 2) * 2.0**-24


def block_sum_error(dim: int) -> float:
    """Largest error of a sum of `dim` products in hardware for matrices, relative to the sum of their magnitudes.

    Tensor cores, and what CPUs have for bfloat16, multiply halves exactly and add b products and the sum so far at a
    time: all are shifted to the largest, what falls below its 24 bits is cut off, and so is the result (Fasi, Higham,
    Mikaitis & Pranesh, PeerJ Computer Science 7:e330, 2021, for V100, T4 and A100, whose later ones keep more bits).
    Truncation loses less than 2^-23 of what it cuts, twice what rounding to nearest does; of b + 1 addends all but the
    largest lose so much of the largest, and then the sum does: b + 1 <= 2 b losses a block, whatever b, hence
    m = 2 dim 2^-23 in all blocks, in any order, and m / (1 - m) with the errors of partial sums (as in Blanchard,
    Higham, Lopez, Mary & Pranesh, SIAM J. Sci. Comput. 42(3), 2020). Adding sums of parts of the products, which all
    begin at zero, is within it. Rounding to nearest in float32, of which m is dim 2^-24, is too.
    """
    m = 2.0 * dim * 2.0**-23
    return m / (1.0 - m)


def product_dtype(device: torch.device) -> torch.dtype:
    """The type in which this device multiplies fastest: half precision on CUDA and on CPUs that have it in hardware."""
    if device.type == "cuda":
        return torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


@dataclass(frozen=True)
class CoarseRows:
    """Unit rows rounded to the type of the product, [n, D]; none is farther than `error` from the row it stands for."""

    rows: Tensor
    error: float

    @classmethod
    def of(cls, unit: Tensor, dtype: torch.dtype | None = None, block_rows: int = 65536) -> CoarseRows:
        """Rounded copies of unit rows float32[n, D]; in float32 they are the rows themselves."""
        rows = unit.to(dtype or product_dtype(unit.device))
        if rows is unit:
            return cls(unit, 0.0)
        blocks = zip(unit.split(block_rows), rows.split(block_rows), strict=True)
        lost = [torch.linalg.vector_norm(exact - near.float(), dim=1).amax() for exact, near in blocks if len(exact)]
        return cls(rows, float(torch.stack(lost).amax()) if lost else 0.0)

    def margin(self, queries: CoarseRows) -> float:
        """How far at most a product of two coarse rows, before it is rounded to their type, is from the pair's score.

        With x = x' + dx: |x.y - x'.y'| <= |dx| |y| + |x'| |dy| (Cauchy-Schwarz); then the rounding of both sums, of the
        product in halves by hardware that may truncate.
        """
        dim, inputs = self.rows.shape[1], self.error + queries.error + self.error * queries.error
        if self.rows.dtype == torch.float32:
            return inputs + 1.01 * rounding_margin(dim)
        return inputs + (1.0 + inputs) * block_sum_error(dim) + 1.01 * rounding_margin(dim) / 2

    def similarities(self, queries: CoarseRows, block: slice, out: Tensor) -> Similarities:
        """Products of all queries with the rows of a block, into the memory of `out`, a flat tensor of their type."""
        rows = self.rows[block]
        values = out[: len(queries.rows) * len(rows)].view(len(queries.rows), len(rows))
        with _full_sums():
            torch.mm(queries.rows, rows.T, out=values)
        return Similarities(values)


class Similarities:
    """Products [b, n], rounded to their type, compared as integers of their own bits: twice as fast as half floats.

    Rounding keeps order, so that it needs no margin: what was at least x is at least x rounded.
    """

    def __init__(self, values: Tensor) -> None:
        self.values, self.keys = values, values.view(_BITS[values.dtype])
        self._turned = False

    def leave_out(self, rows: Tensor, columns: Tensor) -> None:
        """Make these entries minus infinity, before any are compared."""
        self.values[rows, columns] = -torch.inf

    def reach(self, rows: Tensor, cut: Tensor) -> Tensor:
        """Where products of some rows may have been at least their cut, before rounding: bool[len(rows), n]."""
        keys = self._in_order(rows) if bool((cut <= 0).any()) else self._of(rows)
        return keys >= (_ordered(cut.to(self.values.dtype)) - 1)[:, None]

    def largest(self, rows: Tensor, k: int) -> Tensor:
        """What the k-th largest product of some rows was at least, before rounding: float32[len(rows)].

        Minus infinity where fewer than k are left.
        """
        keys = self._in_order(rows)
        if keys.is_cuda:
            ranked = torch.topk(keys, k, dim=1, sorted=False).values.amin(1)
        else:  # a partition, in vector instructions, is several times faster than a heap
            place = keys.shape[1] - k
            ranked = torch.from_numpy(np.partition(keys.numpy(), place, axis=1)[:, place].copy())
        out = ranked <= _ordered(torch.full_like(self.values[:1, :1], -torch.inf)).flatten()
        return torch.where(out, -torch.inf, _ordered(ranked - 1).view(self.values.dtype).float())

    def _of(self, rows: Tensor) -> Tensor:
        return self.keys if len(rows) == len(self.keys) else self.keys[rows]

    def _in_order(self, rows: Tensor) -> Tensor:
        """Keys of some rows with negative floats in order as well: as plain bits they are below zero, but in no order.

        If it is all rows, they stay so.
        """
        if self._turned:
            return self._of(rows)
        if len(rows) < len(self.keys):
            return _ordered(self.keys[rows])
        self._turned = True
        return self.keys.copy_(_ordered(self.keys))


def _ordered(values: Tensor) -> Tensor:
    """Floats, or their bits, as integers in the same order; given such integers, the bits. Its own inverse."""
    bits = values.view(_BITS[values.dtype]) if values.is_floating_point() else values
    return bits ^ ((bits >> (torch.iinfo(bits.dtype).bits - 1)) & torch.iinfo(bits.dtype).max)


@contextmanager
def _full_sums() -> Iterator[None]:
    """On CUDA sums of half-precision products stay in float32 to the end, which the bound counts on."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_fp16_accumulation
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_fp16_accumulation = False
    try:
        yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction, matmul.allow_fp16_accumulation = before
