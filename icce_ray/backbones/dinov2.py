"""DINOv2 features (arXiv 2304.07193) through `transformers`: the paper's backbone, frozen.

Any model with DINOv2's interface fits: `last_hidden_state` after the final norm holds the CLS token first, then
`config.num_register_tokens` registers if the model has any, then one token a patch. No code from a hub is executed and
weights are read from safetensors only.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel
from transformers.utils.hub import cached_file

from icce_ray.backbones import (
    CPU_SLICE,
    PUBLISHED,
    TRANSFORMER_SIZE,
    BackboneError,
    BackboneInfo,
    Features,
    check_features,
    check_pixels,
)
from icce_ray.documents import parse_json, shaped, shown
from icce_ray.io.stores import HeaderError, parsing
from icce_ray.spelling import did_you_mean

KINDS = ("cls", "cls+patch_mean")
KNOWN = tuple(PUBLISHED)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")  # a path such as ./model is none
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_QUIET: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
_MOST_SIDE = 1 << 16
_REMEDY = "give a local directory with config.json and model.safetensors, or use the backbone 'hog', which needs none"


def describe(name: str, features: str, *, n_last_blocks: int, image_size: int | None) -> BackboneInfo:
    """See `describe_backbone`. Reads config.json, from disk or the hub, and looks for the weights' names."""
    check_features(name, features, KINDS)
    config = _config(name)
    size = TRANSFORMER_SIZE if image_size is None else image_size
    patch, width, depth = (_number(name, config, key) for key in ("patch_size", "hidden_size", "num_hidden_layers"))
    if size < patch or size % patch:
        raise BackboneError(f"image_size {size} is no multiple of the patch size {patch} of {name!r}; choose one")
    if not 1 <= n_last_blocks <= depth:
        raise BackboneError(f"n_last_blocks is {n_last_blocks}, but {name!r} has {depth} blocks; use 1 to {depth}")
    layout = {"cls": (0, width)}
    if features == "cls+patch_mean":
        layout["patch_mean"] = (width, 2 * width)
    return BackboneInfo(
        name=name,
        features=features,
        dim=len(layout) * width,
        image_size=size,
        layout=layout,
        block_dim=n_last_blocks * width if n_last_blocks > 1 else 0,
    )


def load(info: BackboneInfo, *, device: str, dtype: str) -> Dinov2:
    """See `load_backbone`."""
    return Dinov2(info, device=device, dtype=dtype)


class Dinov2:
    """`Backbone` of a DINOv2-like model.

    The main feature is the CLS token after the final norm, or that and the mean of the patch tokens, registers
    excluded (DINOv2's linear evaluation). `cls_blocks` holds the CLS tokens of the last n blocks, each after the
    model's final norm, the last block last (DINOv2's `get_intermediate_layers(norm=True)`). Keeping the blocks holds
    every block's tokens until the batch is done: about 1.7 GB for 64 images of 224 x 224 with ViT-L in float32.

    A GPU takes a batch whole; its pictures are copied from pinned memory, so that a second thread's batch is on its way
    and waits in the GPU's queue while the first is computed. A CPU takes it in slices, whose tokens stay in the cache.
    """

    def __init__(self, info: BackboneInfo, *, device: str, dtype: str) -> None:
        """Load the weights. Raises BackboneError for a missing GPU, a type the device does not serve, wrong weights."""
        self.info = info
        self._device = _device(device)
        self._dtype = _autocast_type(dtype, self._device)
        self._model = _load(info.name).to(self._device)
        # Autocast would convert these in every batch, to the same values; all else stays in float32.
        for module in self._model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(self._dtype)
        config = self._model.config
        self._first_patch = 1 + (getattr(config, "num_register_tokens", 0) or 0)
        self._n_blocks = info.block_dim // config.hidden_size
        self._mean = torch.tensor(_IMAGENET_MEAN, device=self._device)[:, None, None]
        self._std = torch.tensor(_IMAGENET_STD, device=self._device)[:, None, None]
        self._check_interface(config)

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> Features:
        """main float32 [B, d or 2 d] and cls_blocks float32 [B, n d] or None, of pixels uint8 [B, S, S, 3]."""
        check_pixels(pixels, self.info.image_size)
        main = np.empty((len(pixels), self.info.dim), np.float32)
        blocks = np.empty((len(pixels), self.info.block_dim), np.float32) if self._n_blocks else None
        step = len(pixels) if self._device.type == "cuda" else CPU_SLICE
        for start in range(0, len(pixels), max(1, step)):
            rows = slice(start, start + step)
            tokens, cls = self._forward(pixels[rows])
            main[rows] = self._main(tokens).cpu().numpy()
            if blocks is not None and cls is not None:
                blocks[rows] = cls.cpu().numpy()
        return Features(main, blocks)

    def _main(self, tokens: torch.Tensor) -> torch.Tensor:
        """The main feature [B, dim] of tokens [B, T, d]."""
        if "patch_mean" not in self.info.layout:
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self._first_patch :].mean(1)], dim=1)

    def _forward(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens float32 [B, T, d] after the final norm, and the CLS tokens of the last blocks [B, n d] or None."""
        source = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._device.type == "cuda":
            source = source.pin_memory().to(self._device, non_blocking=True)
        images = (source.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            output = self._model(pixel_values=images, output_hidden_states=self._n_blocks > 0)
            tokens = output.last_hidden_state.float()
            if not self._n_blocks:
                return tokens, None
            # The last block's own entry is left out: some models report it before the norm, some after.
            earlier = output.hidden_states[-self._n_blocks : -1]
            cls = [_final_norm(self._model)(hidden[:, 0]).float() for hidden in earlier]
        return tokens, torch.cat([*cls, tokens[:, 0]], dim=1)

    def _check_interface(self, config: Any) -> None:
        """One grey image through the model: a different order or number of tokens shows before any work."""
        grey = np.full((1, self.info.image_size, self.info.image_size, 3), 127, np.uint8)
        with torch.inference_mode():
            tokens, _ = self._forward(grey)
        expected = self._first_patch + (self.info.image_size // config.patch_size) ** 2
        if tokens.shape != (1, expected, config.hidden_size):
            raise BackboneError(
                f"{self.info.name!r} gives tokens of shape {list(tokens.shape)}, DINOv2's interface is [1, {expected}, "
                f"{config.hidden_size}] (CLS, registers, patches); use a DINOv2 model, such as {KNOWN[2]}"
            )


def _config(name: str) -> Any:
    """The configuration of a local directory or a hub id whose weights can be had."""
    path = Path(name).expanduser()
    if path.is_dir():
        missing = "config.json" if not (path / "config.json").is_file() else None
        if missing is None and not any((path / weights).is_file() for weights in _WEIGHTS):
            missing = "model.safetensors"
        if missing:
            raise BackboneError(f"the directory {name!r} has no {missing}; {_REMEDY}")
        return _read_config(str(path), local_files_only=True)
    if path.exists() or not _HUB_ID.match(name):
        raise BackboneError(
            f"backbone {name!r} is neither 'hog', nor a directory, nor a model id; {_meant(name)}"
            f"known ids: {', '.join(KNOWN)}; {_REMEDY}"
        )
    cached = [cached_file(name, file, local_files_only=True, **_QUIET) for file in ("config.json", *_WEIGHTS)]
    if cached[0] and any(cached[1:]):
        return _read_config(name, local_files_only=True)
    if not _hub_is_reachable():
        raise BackboneError(
            f"backbone {name!r} is no local directory, not in the local cache, and the model hub cannot be reached "
            f"from here; {_meant(name)}{_REMEDY}"
        )
    return _read_config(name, local_files_only=False)


def _number(name: str, config: Any, key: str) -> int:
    value = getattr(config, key, None)
    if type(value) is not int or not 1 <= value <= _MOST_SIDE:
        raise BackboneError(
            f"{name!r} is no DINOv2-like model: its config.json has {key} = {shown(value)}, no number from 1 to "
            f"{_MOST_SIDE:,}; {_REMEDY}"
        )
    return value


def _read_config(name: str, *, local_files_only: bool) -> Any:
    try:
        _refuse_code(name, local_files_only)
        with parsing():
            return AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local_files_only)
    except (HeaderError, OSError, StrictDataclassError) as error:
        reason = shown(" ".join(str(error).split()), 300, plain=True)
        raise BackboneError(
            f"the configuration of backbone {name!r} cannot be read ({reason}); {_meant(name)}{_REMEDY}"
        ) from error


def _meant(name: str) -> str:
    """The model that a mistyped name was meant to be; nothing for one that is there, or like none."""
    return "" if name in KNOWN else did_you_mean(name, ("hog", *KNOWN))


def _refuse_code(name: str, local_files_only: bool) -> None:
    """Raise BackboneError for code, which transformers would not execute here, but replace in silence by its own.

    It is a model's own, or that of weights that are pickles.
    """

    def content(file: str) -> dict[str, Any]:
        path = cached_file(name, file, local_files_only=local_files_only, **_QUIET)
        return shaped(dict[str, Any], parse_json(Path(path).read_bytes())) if path else {}

    with parsing():
        config, index = content("config.json"), content(_WEIGHTS[1])
        files = set(shaped(dict[str, str], index.get("weight_map", {})).values())
    pickled = sorted(file for file in files if not file.endswith(".safetensors"))
    if "auto_map" in config:
        raise BackboneError(
            f"backbone {name!r} asks for code of its own to be executed (auto_map in its config.json), which is never "
            f"done here; use a model that transformers itself implements, such as {KNOWN[2]}"
        )
    if pickled:
        raise BackboneError(
            f"backbone {name!r} keeps weights in {pickled[0]!r} ({len(pickled)} such files), and only safetensors are "
            f"read; {_REMEDY}"
        )


def _hub_is_reachable() -> bool:
    """One request of at most five seconds; transformers itself would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answers
    except OSError:
        return False


def _load(name: str) -> Any:
    """The model in float32 and evaluation mode, every weight of it from the checkpoint."""
    path = Path(name).expanduser()
    try:
        with parsing():
            model, report = AutoModel.from_pretrained(
                str(path) if path.is_dir() else name,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (HeaderError, OSError, RuntimeError) as error:
        raise BackboneError(f"the weights of backbone {name!r} cannot be loaded ({error}); {_REMEDY}") from error
    # transformers fills missing weights at random, which would give plausible nonsense. The mask token is for training.
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("mask_token"))
    if missing or not hasattr(model, "forward") or _final_norm(model) is None:
        raise BackboneError(
            f"backbone {name!r} is no complete DINOv2-like model: missing weights {missing[:5]} ({len(missing)} in all)"
            f"{'' if _final_norm(model) is not None else ', no final norm'}; {_REMEDY}"
        )
    return model.eval()


def _final_norm(model: Any) -> Any:
    return getattr(model, "layernorm", None) or getattr(model, "norm", None)


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


def _autocast_type(dtype: str, device: torch.device) -> torch.dtype:
    if dtype not in _DTYPES:
        raise BackboneError(f"dtype {dtype!r} does not exist; use one of {list(_DTYPES)}")
    if dtype == "float16" and device.type != "cuda":
        raise BackboneError(f"dtype {dtype!r} needs a GPU, the device is {device}; use 'bfloat16' or 'float32'")
    return _DTYPES[dtype]
