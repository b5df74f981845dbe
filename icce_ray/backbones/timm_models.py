"""Image models of timm, frozen: `timm:NAME`, `timm:hf-hub:ID` or `timm:DIRECTORY` (needs `pip install icce-ray[timm]`).

The feature is what timm gives without a classifier (`num_classes=0`): pooled as the model itself does. Architecture,
preprocessing and weights come from config.json and model.safetensors, as timm keeps them on the model hub.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file

from icce_ray.backbones import TIMM, BackboneError, BackboneInfo, Preprocessing, chosen_features
from icce_ray.backbones.hub import CONFIG, REMEDY, ModelFiles, find_model, unreadable
from icce_ray.backbones.network import Network
from icce_ray.backbones.processors import scaled
from icce_ray.documents import DocumentError, shaped, shown
from icce_ray.io.rendering import Interpolation, Resizing
from icce_ray.io.stores import HeaderError, parsing
from icce_ray.spelling import did_you_mean

_HUB, _LOCAL = "hf-hub:", "local-dir:"


def describe(name: str, features: str | None, *, n_last_blocks: int, image_size: int | None) -> BackboneInfo:
    """See `describe_backbone`. Builds the model without memory for its weights, to ask for its dimensions."""
    timm = _timm(name)
    kind = chosen_features(name, features, ("pooled",))
    if n_last_blocks > 1:
        raise BackboneError(f"n_last_blocks is {n_last_blocks}, but of {name!r} only the last can be had; set it to 1")
    files = _files(timm, name)
    with torch.device("meta"):
        model = _built(timm, name, files)
    own, preprocessing = _preprocessing(name, timm.data.resolve_model_data_config(model))
    if image_size not in (None, own) and model.pretrained_cfg.get("fixed_input_size"):
        raise BackboneError(f"image_size is {image_size}, but {name!r} takes {own} only; leave embed.image_size out")
    size, resizing = scaled(own, preprocessing, image_size)
    width = int(getattr(model, "head_hidden_size", None) or model.num_features)
    return BackboneInfo(
        name=name,
        features=kind,
        dim=width,
        image_size=size,
        layout={"pooled": (0, width)},
        block_dim=0,
        preprocessing=replace(preprocessing, resizing=resizing),
        pooling="what timm gives without a classifier, pooled as the model itself does",
    )


def load(info: BackboneInfo, *, device: str, dtype: str) -> Network:
    """See `load_backbone`."""
    timm = _timm(info.name)
    files = _files(timm, info.name)
    model = _built(timm, info.name, files)
    try:
        with parsing():
            weights = {key: value for path in files.weights() for key, value in load_file(path).items()}
            missing = model.load_state_dict(weights, strict=False).missing_keys
    except (HeaderError, OSError, RuntimeError) as error:
        raise BackboneError(f"the weights of backbone {info.name!r} cannot be loaded ({error}); {REMEDY}") from error
    if missing:
        raise BackboneError(
            f"backbone {info.name!r} is no complete model: missing weights {missing[:5]} ({len(missing)} in all); "
            f"{REMEDY}"
        )
    network = Network(info, model, lambda images: (model(images), None), device=device, dtype=dtype)
    network.check()
    return network


def _timm(name: str) -> Any:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackboneError(
            f"backbone {name!r} needs timm, which cannot be imported ({error}); pip install icce-ray[timm]"
        ) from error
    return timm


def _files(timm: Any, name: str) -> ModelFiles:
    """The files that a name stands for: of a directory, of a hub id, or of where timm keeps those of its own names."""
    target = name.removeprefix(TIMM)
    if target.startswith(_HUB):
        return find_model(target.removeprefix(_HUB))
    path = Path(target.removeprefix(_LOCAL)).expanduser()
    if target.startswith(_LOCAL) or path.is_dir():
        return find_model(str(path))
    known = timm.models.get_pretrained_cfg(target, allow_unregistered=True) if "/" not in target else None
    if known is None or not known.hf_hub_id:
        hint = did_you_mean(target.partition(".")[0], timm.list_models())
        raise BackboneError(
            f"backbone {name!r} is neither a directory nor a model of timm with weights; {hint}timm.list_models"
            "(pretrained=True) names them; of the model hub give timm:hf-hub:ID"
        )
    return find_model(known.hf_hub_id)


def _built(timm: Any, name: str, files: ModelFiles) -> Any:
    """The model with random weights, and without a classifier."""
    folder = Path(files.here(CONFIG)).parent
    try:
        with parsing():
            return timm.create_model(f"{_LOCAL}{folder}", pretrained=False, num_classes=0)
    except (HeaderError, RuntimeError) as error:
        raise unreadable(name, error) from error


def _preprocessing(name: str, data: dict[str, Any]) -> tuple[int, Preprocessing]:
    """(pixels a side, preprocessing) of timm's data config. Raises BackboneError for one that is not served."""
    try:
        channels, height, size = shaped(tuple[int, int, int], data["input_size"])
        share, interpolation, mode = shaped(float, data["crop_pct"]), data["interpolation"], data["crop_mode"]
        mean, std = (shaped(tuple[float, float, float], data[key]) for key in ("mean", "std"))
        served = interpolation in get_args(Interpolation) and mode in ("center", "squash")
        if not served or channels != 3 or height != size or not 0 < share <= 1 or min(std) <= 0:
            raise DocumentError(shown(data, 200))
    except DocumentError as error:
        raise BackboneError(
            f"the data config of backbone {name!r} cannot be served ({error}); its images must become squares of one "
            "size, RGB, cut from the centre or squashed"
        ) from error
    side = math.floor(size / share)
    resizing = Resizing("crop" if mode == "center" else "squash", side, interpolation)
    return size, Preprocessing(resizing=resizing, mean=mean, std=std)
