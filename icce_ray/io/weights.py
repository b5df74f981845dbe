"""Tensors in files: safetensors, which never executes code on reading."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from icce_ray.io.headers import HeaderError, parsing
from icce_ray.io.storage import FileInfo, Storage, StorageError


def save_tensors(storage: Storage, path: str, tensors: Mapping[str, Tensor]) -> FileInfo:
    """Write named tensors as one file, whole or not at all."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storage.write_bytes(path, safetensors.torch.save(held))
    return storage.describe(path)


def load_tensors(storage: Storage, path: str) -> dict[str, Tensor]:
    """Named tensors of a file, on the CPU. Raises FileNotFoundError, StorageError for anything but safetensors."""
    data = storage.read_bytes(path)
    try:
        with parsing():
            return safetensors.torch.load(data)
    except HeaderError as error:
        raise StorageError(
            f"{storage.uri(path)} is not a safetensors file ({error}); {storage.remedy(path)}"
        ) from error
