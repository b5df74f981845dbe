"""A frozen network as a backbone: its device, its precision, batches of pictures through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from icce_ray.backbones import CPU_SLICE, BackboneError, BackboneInfo, Features, check_pixels

#: Of images float32 [B, 3, S, S], normalised: main [B, dim], and the CLS tokens of the last blocks [B, n d] or None.
Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Network:
    """`Backbone` of a network of torch.

    A GPU takes a batch whole; its pictures are copied from pinned memory, so that a second thread's batch is on its way
    and waits in the GPU's queue while the first is computed. A CPU takes it in slices, whose tokens stay in the cache.
    """

    def __init__(self, info: BackboneInfo, model: Any, forward: Forward, *, device: str, dtype: str) -> None:
        """Move the model. Raises BackboneError for a missing GPU or a type that the device does not serve."""
        self.info = info
        self._device, self._dtype = device_and_type(device, dtype)
        self._model, self._forward = model.eval().to(self._device), forward
        # Autocast would convert these in every batch, to the same values; all else stays in float32. Subclasses are
        # left alone: modules that hold one read its weights themselves.
        for module in self._model.modules():
            if type(module) is torch.nn.Linear:
                module.to(self._dtype)
        own = info.preprocessing
        self._mean, self._std = (torch.tensor(one, device=self._device)[:, None, None] for one in (own.mean, own.std))

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> Features:
        """main float32 [B, dim] and cls_blocks float32 [B, n d] or None, of pixels uint8 [B, S, S, 3]."""
        check_pixels(pixels, self.info.image_size)
        main = np.empty((len(pixels), self.info.dim), np.float32)
        blocks = np.empty((len(pixels), self.info.block_dim), np.float32) if self.info.block_dim else None
        step = len(pixels) if self._device.type == "cuda" else CPU_SLICE
        for start in range(0, len(pixels), max(1, step)):
            rows = slice(start, start + step)
            found, cls = self._features(pixels[rows])
            main[rows] = found.float().cpu().numpy()
            if blocks is not None and cls is not None:
                blocks[rows] = cls.float().cpu().numpy()
        return Features(main, blocks)

    def _features(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        source = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._device.type == "cuda":
            source = source.pin_memory().to(self._device, non_blocking=True)
        images = self._normalised(source)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            return self._forward(images)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the network sees of uint8 [B, S, S, 3]: float32 [B, 3, S, S]."""
        return (pixels.permute(0, 3, 1, 2).float() / self.info.preprocessing.white - self._mean) / self._std

    def module(self) -> NetworkModule:
        """The same as a module of torch."""
        return NetworkModule(self._model, self._normalised, self._forward)

    @torch.inference_mode()
    def check(self) -> None:
        """One grey image through the model: another interface shows before any work. Raises BackboneError."""
        side = self.info.image_size
        try:
            found, _ = self._features(np.full((1, side, side, 3), 127, np.uint8))
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise BackboneError(
                f"{self.info.name!r} cannot embed an image of {side} x {side} pixels: {' '.join(str(error).split())}; "
                "leave embed.image_size out, or use another backbone"
            ) from error
        if found.shape != (1, self.info.dim):
            raise BackboneError(
                f"{self.info.name!r} gives features of shape {list(found.shape)}, and its configuration says "
                f"[1, {self.info.dim}]; use another backbone"
            )


class NetworkModule(torch.nn.Module):
    """A network as `load_module` gives it; `normalised` is what it makes of pixels before all else."""

    def __init__(self, model: Any, normalised: Callable[[torch.Tensor], torch.Tensor], forward: Forward) -> None:
        super().__init__()
        self.model, self.normalised, self._features = model, normalised, forward

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [B, dim + block_dim] of uint8 [B, S, S, 3]."""
        main, blocks = self._features(self.normalised(pixels))
        return main if blocks is None else torch.cat([main, blocks], dim=1)


def device_and_type(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Of tensors and of matrix products. Raises BackboneError for what is not there or not served."""
    found = _device(device)
    if dtype not in _DTYPES:
        raise BackboneError(f"dtype {dtype!r} does not exist; use one of {list(_DTYPES)}")
    if dtype == "float16" and found.type != "cuda":
        raise BackboneError(f"dtype {dtype!r} needs a GPU, the device is {found}; use 'bfloat16' or 'float32'")
    return found, _DTYPES[dtype]


def _device(device: str) -> torch.device:
    n_gpus = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise BackboneError(f"device {device!r} does not exist; use 'auto', 'cpu' or 'cuda'") from error
    if found.type == "cuda" and (found.index or 0) >= n_gpus:
        raise BackboneError(f"device {device!r} is asked for, but this process sees {n_gpus} GPUs; use 'auto' or 'cpu'")
    return found
