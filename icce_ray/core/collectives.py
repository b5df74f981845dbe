"""What workers that train together ask of each other: sums and gathers, passed in by whoever started them.

The core knows this interface only. One process is `ALONE`, which exchanges nothing and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Collectives(Protocol):
    """A group of workers. All of them call the same methods in the same order, with tensors of the same shapes.

    `purpose` names what is exchanged, for whoever counts. No method makes the host wait for the device.
    """

    @property
    def rank(self) -> int:
        """Number of this worker, 0 ... size - 1."""
        ...

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def sum(self, tensor: Tensor, purpose: str) -> None:
        """Replace `tensor` by its sum over the workers, to the same bits on each."""
        ...

    def sum_later(self, tensor: Tensor, purpose: str) -> Callable[[], object]:
        """Start `sum`; the tensor must be left alone until the function that is returned was called."""
        ...

    def gather(self, tensor: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
        """Rows of all workers one after another, on every worker; worker r gives `counts[r]` rows."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process: every sum is there already."""

    rank: int = 0
    size: int = 1

    def sum(self, tensor: Tensor, purpose: str) -> None:
        """Nothing."""

    def sum_later(self, tensor: Tensor, purpose: str) -> Callable[[], object]:
        """Nothing, and nothing to wait for."""
        return _nothing

    def gather(self, tensor: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
        """The tensor itself."""
        return tensor


def _nothing() -> None:
    """What there is to wait for alone."""


ALONE = Alone()


def shares(total: int, size: int) -> list[int]:
    """How many of `total` things each of `size` workers takes; the first take one more where it does not divide."""
    least, more = divmod(total, size)
    return [least + (rank < more) for rank in range(size)]


def share(total: int, workers: Collectives) -> slice:
    """This worker's own of `total` things in order."""
    counts = shares(total, workers.size)
    start = sum(counts[: workers.rank])
    return slice(start, start + counts[workers.rank])


def sum_together(tensors: Sequence[Tensor], workers: Collectives, purpose: str) -> list[Tensor]:
    """Sums over the workers of several tensors of one kind, in one exchange."""
    if workers.size == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    workers.sum(flat, purpose)
    return _as(flat, tensors)


def sum_gradients_later(parameters: Sequence[Tensor], workers: Collectives) -> Callable[[], object]:
    """Start to sum the gradients of these parameters in one exchange; call what is returned before they are read.

    Afterwards they are views of one tensor.
    """
    if workers.size == 1:
        return _nothing
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    wait = workers.sum_later(flat, "gradients")
    for parameter, summed in zip(parameters, _as(flat, gradients), strict=True):
        parameter.grad = summed
    return wait


def logsumexp_together(tensors: Sequence[Tensor], workers: Collectives, purpose: str) -> list[Tensor]:
    """`log sum exp` over the workers of several tensors, in one exchange; whoever has no rows gives minus infinity."""
    if workers.size == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return _as(workers.gather(flat[None], [1] * workers.size, purpose).logsumexp(0), tensors)


def _as(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """A flat tensor cut and shaped like these."""
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
