"""Sums over workers: shares, several tensors in one exchange, Sinkhorn over rows that are spread unevenly."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from icce_ray.core.collectives import (
    SINGLE_PROCESS,
    Distributed,
    all_reduce,
    all_reduce_logsumexp,
    current_workers,
    share,
    shares,
    start_gradient_reduce,
)
from icce_ray.core.losses import sinkhorn


class Thread:
    """Workers as threads of one process; `exchanges` counts those of the whole group."""

    def __init__(self, rank, size, barrier, given, exchanges):
        self.rank, self.size = rank, size
        self.barrier, self.given, self.exchanges = barrier, given, exchanges

    def all_gather(self, tensor, counts):
        assert len(tensor) == counts[self.rank]
        self.given[self.rank] = tensor.clone()
        if self.rank == 0:
            self.exchanges.append(tensor.numel())
        self.barrier.wait()
        whole = torch.cat([self.given[rank] for rank in range(self.size)])
        self.barrier.wait()
        return whole

    def all_reduce(self, tensor):
        tensor.copy_(self.all_gather(tensor[None], [1] * self.size).sum(0))

    def start_all_reduce(self, tensor):
        return lambda: self.all_reduce(tensor)


def together(size, function):
    """What `function` gives each worker, in the order of rank, and the sizes of what each gave to an exchange."""
    barrier, given, exchanges = threading.Barrier(size, timeout=30), {}, []
    group = [Thread(rank, size, barrier, given, exchanges) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(function, group)), exchanges


@pytest.mark.parametrize(("total", "size"), [(7, 1), (7, 2), (7, 4), (3, 4), (0, 2), (8, 4)])
def test_shares_are_even_and_complete(total, size):
    counts = shares(total, size)
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
    things = list(range(total))
    found, _ = together(size, lambda worker: things[share(total, worker)])
    assert [thing for some in found for thing in some] == things


def test_one_process_keeps_what_it_has():
    tensors = [torch.ones(2), torch.ones(3, 1)]
    assert all(a is b for a, b in zip(all_reduce(tensors, SINGLE_PROCESS), tensors, strict=True))
    assert SINGLE_PROCESS.all_gather(tensors[0], [2]) is tensors[0]
    parameter = torch.ones(2, requires_grad=True)
    parameter.sum().backward()
    gradient = parameter.grad
    start_gradient_reduce([parameter], SINGLE_PROCESS)()
    SINGLE_PROCESS.start_all_reduce(tensors[0])()
    assert parameter.grad is gradient
    assert torch.equal(tensors[0], torch.ones(2))


def test_several_tensors_are_one_exchange():
    def work(worker):
        tensors = [torch.full((2, 3), float(worker.rank)), torch.tensor([10.0 * worker.rank])]
        return all_reduce(tensors, worker), all_reduce_logsumexp(tensors, worker)

    found, exchanges = together(3, work)
    assert exchanges == [7, 7]
    for sums, logs in found:
        assert torch.equal(sums[0], torch.full((2, 3), 3.0))
        assert torch.equal(sums[1], torch.tensor([30.0]))
        torch.testing.assert_close(logs[0], torch.arange(3.0).logsumexp(0).expand(2, 3))
        torch.testing.assert_close(logs[1], torch.tensor([0.0, 10.0, 20.0]).logsumexp(0, keepdim=True))


def test_gradients_are_summed_before_they_are_read():
    def work(worker):
        parameters = [torch.ones(shape, requires_grad=True) for shape in ((2, 3), (4,))]
        sum((worker.rank + 1) * (k + 1) * p.sum() for k, p in enumerate(parameters)).backward()
        wait = start_gradient_reduce(parameters, worker)
        wait()
        return [p.grad for p in parameters]

    found, exchanges = together(2, work)
    assert exchanges == [10]
    for gradients in found:
        assert torch.equal(gradients[0], torch.full((2, 3), 3.0))
        assert torch.equal(gradients[1], torch.full((4,), 6.0))


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("scale", [3.0, 1e4])
@pytest.mark.parametrize("cuts", [(0, 8, 20), (0, 20, 20), (0, 1, 19, 20)])
def test_sinkhorn_of_rows_on_several_workers(cuts, scale, iterations):
    """Chunks of two heads and of one; the second worker of (0, 20, 20) has no row."""
    scores = scale * torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(1))

    def work(worker):
        own = scores[:, cuts[worker.rank] : cuts[worker.rank + 1]]
        return torch.cat(sinkhorn([own[:2], own[2:]], worker, iterations=iterations))

    found, exchanges = together(len(cuts) - 1, work)
    assert exchanges == [3 * 5] * iterations
    (whole,) = sinkhorn([scores], SINGLE_PROCESS, iterations=iterations)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-5, atol=1e-7)


def test_the_default_group_of_torch(tmp_path):
    """A group of one; groups of several are in tests/numerics."""
    assert current_workers() is SINGLE_PROCESS
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert current_workers() is SINGLE_PROCESS  # nobody to exchange anything with
        workers, tensor = Distributed(), torch.arange(6.0).view(2, 3)
        assert (workers.rank, workers.size) == (0, 1)
        workers.all_reduce(tensor)
        workers.start_all_reduce(tensor[0])()
        assert torch.equal(workers.all_gather(tensor.half().T, [3]), torch.arange(6.0).view(2, 3).half().T)
    finally:
        dist.destroy_process_group()
