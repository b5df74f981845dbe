"""Progress of work that runs in one remote process: a small actor that the process tells and the driver asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from icce_ray.adapters.progress import StageProgress

POLL_SECONDS = 0.5


@ray.remote(num_cpus=0)
class Board:
    """Holds the last thing reported."""

    def __init__(self) -> None:
        self.last: tuple[int, dict[str, Any]] | None = None

    def post(self, done: int, facts: dict[str, Any]) -> None:
        """Units done in all, and facts to show."""
        self.last = (done, facts)

    def read(self) -> tuple[int, dict[str, Any]] | None:
        """The last report."""
        return self.last


@contextmanager
def relayed(progress: StageProgress) -> Iterator[Any]:
    """A board to hand to the remote process; what is posted there is shown here until the block ends."""
    board: Any = Board.remote()
    stop = threading.Event()

    def relay() -> None:
        while not stop.wait(POLL_SECONDS):
            last = ray.get(board.read.remote())
            if last is not None:
                progress.update(last[0], **last[1])

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield board
        last = ray.get(board.read.remote())
        if last is not None:
            progress.update(last[0], **last[1])
    finally:
        stop.set()
        thread.join()
        ray.kill(board)
