"""A checkpoint is written while the training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import safetensors.torch
from torch import Tensor

from icce_ray.io.storage import Storage


class CheckpointWriter:
    """Writes the states of a training to one file, each in place of the one before, in a thread of its own.

    At most one is under way: `write` first waits for the one before, and so does the end of the block. Both raise what
    the writing raised. Until a state is written whole, the file is that of the one before (`Storage.write_bytes`).
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Begin to write a state whose tensors nobody changes afterwards; the caller waits for their way to the CPU."""
        self.wait()
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        self._writing = self._pool.submit(lambda: self._storage.write_bytes(self._path, safetensors.torch.save(on_cpu)))

    def wait(self) -> None:
        """Return when the last state is written whole; raises what its writing raised, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._pool:
            if error is None:
                self.wait()
            elif self._writing is not None and (second := self._writing.exception()) is not None:
                error.add_note(f"{self._storage.uri(self._path)} was not written either: {second}")
