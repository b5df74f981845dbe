"""Workers of torch.distributed as `core.collectives`: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from icce_ray.core.collectives import ALONE, Collectives


def joined() -> Collectives:
    """The workers of the default process group, or one process where there is no group or nobody else in it."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Distributed()
    return ALONE


class Distributed:
    """Collectives of the default process group, which somebody has initialised for the device of the tensors."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.exchanged: Counter[str] = Counter()
        """Bytes this worker gave to exchanges, by purpose: sizes of the tensors, whatever the library makes of them."""
        self.calls: Counter[str] = Counter()
        """Exchanges, by purpose."""

    def sum(self, tensor: Tensor, purpose: str) -> None:
        """Replace `tensor` by its sum over the workers."""
        self._count(tensor, purpose)
        dist.all_reduce(tensor)

    def sum_later(self, tensor: Tensor, purpose: str) -> Callable[[], object]:
        """Start `sum`; returns the function that waits for it (on CUDA: lets the stream wait, not the host)."""
        self._count(tensor, purpose)
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None, "torch.distributed returns None to those outside the group only"
        return work.wait

    def gather(self, tensor: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
        """Rows of all workers one after another; shorter ones are padded, since gloo wants equal shapes."""
        most = max(counts)
        padded = tensor.contiguous()
        if len(tensor) < most:
            padded = torch.cat([tensor, tensor.new_zeros(most - len(tensor), *tensor.shape[1:])])
        self._count(padded, purpose)
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    def _count(self, tensor: Tensor, purpose: str) -> None:
        self.exchanged[purpose] += tensor.numel() * tensor.element_size()
        self.calls[purpose] += 1
