"""What workers that train together exchange: sums and gathers, passed in by whoever started the workers.

`Distributed` are the workers of torch.distributed; one process is `SINGLE_PROCESS`, which exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives:
    """A group of workers, here of one process, where every sum is complete; `Distributed` are several.

    All of them call the same methods in the same order, with tensors of the same shapes. No method makes the host wait
    for the device.
    """

    rank: int = 0
    """Number of this worker, 0 ... size - 1."""
    size: int = 1
    """Number of workers."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the workers, to the same bits on each."""

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        """`all_reduce` in the background; the tensor must be left alone until the returned function was called."""
        return lambda: None

    def all_gather(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all workers one after another, on every worker; worker r gives `counts[r]` rows."""
        return tensor


SINGLE_PROCESS = Collectives()


class Distributed(Collectives):
    """The default process group of torch.distributed: gloo between CPUs, NCCL between GPUs."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the workers."""
        dist.all_reduce(tensor)

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        """Start `all_reduce`; returns the function that waits for it (on CUDA: lets the stream wait, not the host)."""
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None, "torch.distributed returns None to those outside the group only"
        return work.wait

    def all_gather(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all workers one after another; shorter ones are padded, since gloo wants equal shapes."""
        padded = torch.cat([tensor, tensor.new_zeros(max(counts) - len(tensor), *tensor.shape[1:])])
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])


def current_workers() -> Collectives:
    """The workers of the default process group; `SINGLE_PROCESS` without a group or with nobody else in it."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Distributed() if several else SINGLE_PROCESS


def shares(total: int, size: int) -> list[int]:
    """How many of `total` things each of `size` workers takes; the first take one more where it does not divide."""
    least, more = divmod(total, size)
    return [least + (rank < more) for rank in range(size)]


def share(total: int, workers: Collectives) -> slice:
    """This worker's own of `total` things in order."""
    counts = shares(total, workers.size)
    start = sum(counts[: workers.rank])
    return slice(start, start + counts[workers.rank])


def all_reduce(tensors: Sequence[Tensor], workers: Collectives) -> list[Tensor]:
    """Sums over the workers of several tensors of one type, in one exchange."""
    if workers.size == 1:
        return list(tensors)
    flat = _flat(tensors)
    workers.all_reduce(flat)
    return _split(flat, tensors)


def all_reduce_logsumexp(tensors: Sequence[Tensor], workers: Collectives) -> list[Tensor]:
    """`log sum exp` over the workers of several tensors, in one exchange; a worker without rows gives -infinity."""
    if workers.size == 1:
        return list(tensors)
    gathered = workers.all_gather(_flat(tensors)[None], [1] * workers.size)
    return _split(gathered.logsumexp(0), tensors)


def start_gradient_reduce(parameters: Sequence[Tensor], workers: Collectives) -> Callable[[], object]:
    """Start to sum the gradients of these parameters in one exchange; call the result before they are read.

    Afterwards they are views of one tensor.
    """
    if workers.size == 1:
        return lambda: None
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = _flat(gradients)
    wait = workers.start_all_reduce(flat)
    for parameter, summed in zip(parameters, _split(flat, gradients), strict=True):
        parameter.grad = summed
    return wait


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _split(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """A flat tensor cut and shaped like `tensors`."""
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
