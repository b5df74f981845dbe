"""One training step of all heads by several workers: bytes they exchange, counted, and time against one process.

    python jobs/bench/parallel.py [--workers 2 4 --heads 50 --dim 384 --clusters 100 --batch 1024 --steps 3]

Prints one Markdown table. Workers are processes of this machine with `--threads` threads each, over gloo, or over NCCL
with a GPU each where there are enough. Bytes are what each worker gives to the exchanges of a step. CPU time is that of
a worker, which hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measuring import header, options, row
from torch.multiprocessing.spawn import spawn

from icce_ray.core.collectives import Distributed, current_workers
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Execution, Parallelism, Recipe
from icce_ray.core.training import HeadTrainer


class Counting(Distributed):
    """Counts the bytes that this worker gives to exchanges, whatever the library makes of them."""

    bytes = 0

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Count and sum."""
        self.bytes += tensor.nbytes
        super().all_reduce(tensor)

    def start_all_reduce(self, tensor: torch.Tensor) -> Callable[[], object]:
        """Count and start to sum."""
        self.bytes += tensor.nbytes
        return super().start_all_reduce(tensor)

    def all_gather(self, tensor: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Count, padded as it is sent, and gather."""
        self.bytes += max(counts) * tensor[:1].nbytes
        return super().all_gather(tensor, counts)


def problem(given: argparse.Namespace, device: str) -> tuple[torch.Tensor, Neighbors]:
    """Random features and neighbour lists: a step takes the same time on any."""
    generator = torch.Generator().manual_seed(0)
    n = 4 * given.batch
    features = torch.randn(n, given.dim, generator=generator)
    ids = torch.randint(n, (8 * n,), generator=generator)
    return features.to(device), Neighbors(torch.arange(n + 1) * 8, ids, torch.empty(0)).to(device)


def measure(given: argparse.Namespace, parallelism: Parallelism, device: str) -> dict[str, Any]:
    """Least milliseconds of a step, on the clock and of the CPU, and bytes per step, of this worker."""
    workers = Counting() if dist.is_initialized() else current_workers()
    features, lists = problem(given, device)
    recipe = Recipe(heads=given.heads, batch_size=given.batch)
    trainer = HeadTrainer(
        features,
        lists,
        n_clusters=given.clusters,
        recipe=recipe,
        seed=0,
        workers=workers,
        execution=Execution(parallelism=parallelism, precision="float32"),
    )
    generator = torch.Generator(device).manual_seed(0)
    anchors = torch.arange(given.batch, device=device)
    taken = []
    for step in range(given.steps + 1):  # the first does not count
        partners = trainer.draw(anchors, generator)
        if workers.size > 1:
            dist.barrier()
        started, busy = time.perf_counter(), time.process_time()
        trainer.step(anchors, partners, step)
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - started, time.process_time() - busy))
    exchanged = workers.bytes if isinstance(workers, Counting) else 0
    least = {name: 1e3 * min(times) for name, times in zip(("ms", "cpu"), zip(*taken[1:], strict=True), strict=True)}
    return least | {"bytes": exchanged / len(taken)}


def work(rank: int, size: int, given: argparse.Namespace, parallelism: Parallelism, folder: str) -> None:
    """One process: its measurement goes to a file of the folder."""
    torch.set_num_threads(given.threads)
    device = "cpu"
    if torch.cuda.device_count() >= size:
        device = f"cuda:{rank}"
        torch.cuda.set_device(device)
    if size > 1:
        backend = "gloo" if device == "cpu" else "nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=rank, world_size=size)
    found = measure(given, parallelism, device) | {"device": device.split(":", maxsplit=1)[0]}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def together(size: int, given: argparse.Namespace, parallelism: Parallelism) -> dict[str, Any]:
    """The largest of each figure over the workers: the slowest decides when a step ends."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (size, given, parallelism, folder), nprocs=size)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(size)]
    return {name: max(one[name] for one in found) for name in found[0]}


def main() -> None:
    """Measure and print one table."""
    sizes = {"heads": 50, "dim": 384, "clusters": 100, "batch": 1024, "steps": 3, "threads": 1}
    given = options(__doc__, **sizes, workers=[2, 4]).parse_args()
    base = together(1, given, "heads")
    stated = ", ".join(f"{name} {getattr(given, name)}" for name in sizes)
    print(f"{stated}, float32, {base['device']}\n")
    header("parallelism", "workers", "bytes per step", "ms per step", "CPU ms", "speed")
    row("one process", 1, 0, f"{base['ms']:,.0f}", f"{base['cpu']:,.0f}", "1.00")
    kinds: tuple[Parallelism, ...] = ("heads", "data")
    for parallelism in kinds:
        for size in given.workers:
            found = together(size, given, parallelism)
            cells = (f"{found[name]:,.0f}" for name in ("bytes", "ms", "cpu"))
            row(parallelism, size, *cells, f"{base['ms'] / found['ms']:.2f}")


if __name__ == "__main__":
    main()
