"""Image models of `transformers`, frozen: DINOv2 (arXiv 2304.07193, the paper's) and the families of `families`.

A model with tokens holds in `last_hidden_state`, after its final norm, the CLS token and its like first, then
`config.num_register_tokens` registers if it has any, then one token a patch. All others are used through their own
`pooler_output`. Of a model of images and text the image tower alone is loaded.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_MAPPING, AutoConfig

from icce_ray.backbones import (
    TIMM,
    TRANSFORMER_SIZE,
    BackboneError,
    BackboneInfo,
    Preprocessing,
    chosen_features,
)
from icce_ray.backbones.families import SQUASHED, Family, family_of, pooling
from icce_ray.backbones.hub import REMEDY, ModelFiles, find_model, unreadable
from icce_ray.backbones.network import Network
from icce_ray.backbones.processors import read_processor, scaled
from icce_ray.documents import shown
from icce_ray.io.rendering import Resizing
from icce_ray.io.stores import HeaderError, parsing

_IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_MOST_SIDE = 1 << 16


def describe(name: str, features: str | None, *, n_last_blocks: int, image_size: int | None) -> BackboneInfo:
    """See `describe_backbone`. Reads configurations, from disk or the hub, and looks for the weights' names."""
    files = find_model(name)
    config = _image_config(name, files)
    family = family_of(config.model_type)
    kind = chosen_features(name, features, family.features)
    size, preprocessing = _preprocessing(name, config, files, image_size)
    width = _width(name, config)
    patch = getattr(config, "patch_size", None)
    if _has_tokens(family) or isinstance(patch, int):
        patch = _number(name, config, "patch_size")
        if size < patch or size % patch:
            raise BackboneError(f"image_size {size} is no multiple of the patch size {patch} of {name!r}; choose one")
    parts = kind.split("+")
    if _has_tokens(family):
        _check_depth(name, config, n_last_blocks)
    if n_last_blocks > 1 and "cls" not in parts:
        raise BackboneError(
            f"n_last_blocks is {n_last_blocks}, which stores CLS tokens, but {kind!r} of {name!r} has none; set "
            "embed.n_last_blocks=1"
        )
    return BackboneInfo(
        name=name,
        features=kind,
        dim=len(parts) * width,
        image_size=size,
        layout={part: (place * width, (place + 1) * width) for place, part in enumerate(parts)},
        block_dim=n_last_blocks * width if n_last_blocks > 1 else 0,
        preprocessing=preprocessing,
        pooling=pooling(family, kind),
    )


def load(info: BackboneInfo, *, device: str, dtype: str) -> Network:
    """See `load_backbone`."""
    files = find_model(info.name)
    model = _load(info, files)
    network = Network(info, model, _Forward(info, model), device=device, dtype=dtype)
    network.check()
    return network


class _Forward:
    """Features of normalised images by a model of transformers.

    The main feature is what `info.layout` names; `cls_blocks` are the CLS tokens of the last n blocks, each after the
    model's final norm, the last block last (DINOv2's `get_intermediate_layers(norm=True)`). Keeping the blocks holds
    every block's tokens until the batch is done: about 1.7 GB for 64 images of 224 x 224 with ViT-L in float32.
    """

    def __init__(self, info: BackboneInfo, model: Any) -> None:
        self._info, self._model, config = info, model, model.config
        family, self._kind = family_of(config.model_type), config.model_type
        self._first_patch = family.special + (getattr(config, "num_register_tokens", 0) or 0)
        patch = getattr(config, "patch_size", None)
        self._patch = patch if isinstance(patch, int) else info.image_size
        self._side = info.image_size // self._patch
        self._n_blocks = info.block_dim * len(info.layout) // info.dim
        taken = inspect.signature(model.forward).parameters
        other = info.image_size != getattr(config, "image_size", info.image_size)
        # DINOv2 and its like interpolate their positions in any case.
        self._options = {"interpolate_pos_encoding": True} if other and "interpolate_pos_encoding" in taken else {}

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """main [B, dim] and cls_blocks [B, n d] or None of images [B, 3, S, S]."""
        inputs = self._inputs(images) | self._options
        output = self._model(**inputs, output_hidden_states=True) if self._n_blocks else self._model(**inputs)
        found = [self._part(part, output) for part in self._info.layout]
        main = torch.cat([part.float() for part in found], dim=1)
        if not self._n_blocks:
            return main, None
        # The last block's own entry is left out: some models report it before the norm, some after.
        earlier = output.hidden_states[-self._n_blocks : -1]
        cls = [_final_norm(self._model)(hidden[:, 0]).float() for hidden in earlier]
        return main, torch.cat([*cls, output.last_hidden_state[:, 0].float()], dim=1)

    def _inputs(self, images: torch.Tensor) -> dict[str, Any]:
        """What the model's forward pass takes."""
        count, side = images.shape[0], self._side
        if self._kind == "vit_mae":  # in their own order: it shuffles by noise even where it masks nothing
            noise = torch.arange(side * side, device=images.device, dtype=torch.float32)
            return {"pixel_values": images, "noise": noise.expand(count, -1)}
        if self._kind == "siglip2_vision_model":  # NaFlex takes patches [B, n, p p 3], and how many each way
            patches = images.unfold(2, self._patch, self._patch).unfold(3, self._patch, self._patch)
            return {
                "pixel_values": patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2),
                "pixel_attention_mask": torch.ones(count, side * side, dtype=torch.int32, device=images.device),
                "spatial_shapes": torch.full((count, 2), side, dtype=torch.long, device=images.device),
            }
        return {"pixel_values": images}

    def _part(self, part: str, output: Any) -> torch.Tensor:
        """One slice of the main feature [B, d]. Raises ValueError for a model with another interface."""
        if part == "pooled":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise ValueError("the model has no pooled output of its own")
            return pooled.flatten(1)  # some keep two dimensions of 1
        tokens, side = output.last_hidden_state, self._side
        expected = self._first_patch + side**2
        if tokens.ndim != 3 or tokens.shape[1] != expected:
            raise ValueError(
                f"it gives tokens of shape {list(tokens.shape)}, where {expected} are expected ({self._first_patch} "
                f"before {side} x {side} patches)"
            )
        return tokens[:, 0] if part == "cls" else tokens[:, self._first_patch :].mean(1)


def _has_tokens(family: Family) -> bool:
    return family.features != ("pooled",)


def _image_config(name: str, files: ModelFiles) -> Any:
    """The configuration of the model, or of its image tower. Raises BackboneError."""
    if "architecture" in files.config and "model_type" not in files.config:
        hub = "" if Path(files.source).is_absolute() else "hf-hub:"
        raise BackboneError(f"{name!r} is a model of timm; write {TIMM}{hub}{name} (pip install icce-ray[timm])")
    try:
        with parsing():
            config = AutoConfig.from_pretrained(files.source, trust_remote_code=False, local_files_only=True)
            config = getattr(config, "vision_config", config)
    except (HeaderError, OSError, StrictDataclassError) as error:
        raise unreadable(name, error) from error
    if type(config) not in MODEL_MAPPING:
        raise BackboneError(f"{name!r} is a {config.model_type}, of which transformers loads no plain model; {REMEDY}")
    return config


def _preprocessing(name: str, config: Any, files: ModelFiles, wanted: int | None) -> tuple[int, Preprocessing]:
    """(pixels a side, preprocessing); DINOv2's may come without a file of its own, and squashes as the paper does."""
    squashed = config.model_type in SQUASHED
    if not files.processor and not squashed:
        raise BackboneError(
            f"backbone {name!r} has no preprocessor_config.json, which says how its images are prepared; save its "
            "image processor beside it (save_pretrained), or download the model whole"
        )
    own = (TRANSFORMER_SIZE, _IMAGENET)
    size, preprocessing = read_processor(name, files.processor) if files.processor else own
    if squashed:
        size, resizing = wanted or TRANSFORMER_SIZE, Resizing(interpolation=preprocessing.resizing.interpolation)
    else:
        size, resizing = scaled(size, preprocessing, wanted)
    return size, replace(preprocessing, resizing=resizing)


def _check_depth(name: str, config: Any, count: int) -> None:
    depth = _number(name, config, "num_hidden_layers")
    if not 1 <= count <= depth:
        raise BackboneError(f"n_last_blocks is {count}, but {name!r} has {depth} blocks; use 1 to {depth}")


def _width(name: str, config: Any) -> int:
    """Numbers of the feature: of a transformer's tokens, or of the last stage of a network of stages."""
    stages = getattr(config, "hidden_sizes", None)
    if isinstance(stages, list | tuple) and stages:
        return _checked_number(name, "hidden_sizes", stages[-1])
    return _number(name, config, "hidden_size" if hasattr(config, "hidden_size") else "hidden_dim")


def _number(name: str, config: Any, key: str) -> int:
    return _checked_number(name, key, getattr(config, key, None))


def _checked_number(name: str, key: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_SIDE:
        raise BackboneError(
            f"{name!r} is no image model that is served: its config.json has {key} = {shown(value)}, no number from 1 "
            f"to {_MOST_SIDE:,}; {REMEDY}"
        )
    return value


def _load(info: BackboneInfo, files: ModelFiles) -> Any:
    """The model in float32, every weight that its features need from the checkpoint."""
    name, config = info.name, _image_config(info.name, files)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    try:
        model, lacking = files.model(config=config)
    except (HeaderError, OSError, RuntimeError) as error:
        raise BackboneError(f"the weights of backbone {name!r} cannot be loaded ({error}); {REMEDY}") from error
    # The mask token is for training.
    unused = ("pooler.",) if "pooled" not in info.layout else ()
    missing = [key for key in lacking if not (key.endswith("mask_token") or key.startswith(unused))]
    if missing or (info.block_dim and _final_norm(model) is None):
        raise BackboneError(
            f"backbone {name!r} is no complete {config.model_type}: missing weights {sorted(missing)[:5]} "
            f"({len(missing)} in all){'' if missing else ', no final norm'}; {REMEDY}"
        )
    return model


def _final_norm(model: Any) -> Any:
    return getattr(model, "layernorm", None) or getattr(model, "norm", None)
