"""What a training waits for its checkpoints, written in its loop and beside it.

    python jobs/bench/checkpoint.py [--megabytes 1150 --rate 200 --interval 12 --checkpoints 3]

Prints one Markdown table. The store is slow (`rate` megabytes per second) and forgets what it is given; the loop is of
steps of 6 ms that wait, as for a GPU. `waits` is what the loop stands still for one checkpoint, `longest step` what the
writing beside it costs a step, `read` the bytes that are read of the store.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from measuring import header, options, row

from icce_ray.io.storage import Storage
from icce_ray.stages.checkpoints import CheckpointWriter

STEP_SECONDS = 0.006


class SlowStore(Storage):
    """Takes `rate` bytes per second; counts what is read."""

    rate, read = 1.0, 0

    def write_bytes(self, path: str, data: Any) -> None:
        """Take as long as the network would."""
        time.sleep(len(data) / self.rate)

    def read_bytes(self, path: str) -> bytes:
        """Count."""
        data = super().read_bytes(path)
        self.read += len(data)
        return data


def train(given: argparse.Namespace, write: Callable[[Mapping[str, torch.Tensor]], object]) -> tuple[float, float]:
    """Steps with a checkpoint after every `interval` seconds of them; seconds that a checkpoint and a step took at
    most."""
    state = {f"part{number}": torch.randn(given.megabytes * 25_000) for number in range(10)}
    waits, steps = [], []
    for _ in range(given.checkpoints):
        begun = time.perf_counter()
        write(state)
        waits.append(time.perf_counter() - begun)
        for _ in range(int(given.interval / STEP_SECONDS)):
            begun = time.perf_counter()
            time.sleep(STEP_SECONDS)
            steps.append(time.perf_counter() - begun)
    return max(waits), max(steps)


def main() -> None:
    """Both ways of writing."""
    given = options(__doc__, megabytes=1150, rate=200, interval=12.0, checkpoints=3).parse_args()
    torch.set_num_threads(1)
    header("written", "waits, s", "longest step, ms", "read, bytes")
    store = SlowStore("nowhere")
    store.rate = given.rate * 1e6
    found = train(given, lambda state: store.write_tensors("state", state))
    row("in the loop", f"{found[0]:.2f}", f"{1e3 * found[1]:.0f}", store.read)
    with CheckpointWriter(store, "state") as checkpoints:
        found = train(given, checkpoints.write)
    row("beside it", f"{found[0]:.2f}", f"{1e3 * found[1]:.0f}", store.read)


if __name__ == "__main__":
    main()
