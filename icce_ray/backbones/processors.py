"""How a model's images are prepared, read from its preprocessor_config.json.

transformers' own processors fill in what an old file leaves out; nothing but what they do is done here. What is no
square of fixed size, or another order of channels, is refused: features would come out, and mean little.
"""

from __future__ import annotations

import math
import re
from typing import Any

import transformers

from icce_ray.backbones import BackboneError, Preprocessing
from icce_ray.documents import DocumentError, shaped, shown
from icce_ray.io.rendering import Interpolation, Resizing
from icce_ray.io.stores import HeaderError, parsing

#: Processors that resize, cut and normalise as the decoder can, by the name before `ImageProcessor`; DINOv3's, which
#: has no form without torchvision, differs from ViT's in its mean and deviation only.
_SERVED = {
    name: f"{name}ImageProcessorPil" for name in ("ViT", "DeiT", "Beit", "CLIP", "Siglip", "Siglip2", "Bit", "ConvNext")
} | {"DINOv3ViT": "ViTImageProcessorPil"}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_SUFFIX = re.compile(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$")
#: By Pillow's numbers.
_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_CROPS_BELOW = 384  # pixels a side from which on ConvNext's processor squashes
_MOST_SIDE = 1 << 16


def read_processor(name: str, content: dict[str, Any]) -> tuple[int, Preprocessing]:
    """(pixels a side, preprocessing) of the model `name`. Raises BackboneError for one that is not served."""
    written = content.get("image_processor_type") or content.get("feature_extractor_type") or ""
    kind = _SUFFIX.sub("", str(written))
    if kind not in _SERVED:
        raise BackboneError(
            f"backbone {name!r} prepares its images by {shown(written)}, which is not served; served are "
            f"{', '.join(f'{one}ImageProcessor' for one in _SERVED)}, by preprocessor_config.json beside config.json"
        )
    try:
        with parsing():
            given = (_IMAGENET if kind == "DINOv3ViT" else {}) | content
            values = getattr(transformers, _SERVED[kind]).from_dict(given).to_dict()
            size, resizing = _resizing(kind, values)
            white = 1 / shaped(float, values["rescale_factor"]) if values["do_rescale"] else 1.0
            mean, std = (_channels(values[key]) for key in ("image_mean", "image_std"))
            if min(white, *std) <= 0:
                raise ValueError(f"rescale_factor {shown(values['rescale_factor'])} or image_std {std} is not positive")
    except (HeaderError, DocumentError) as error:
        raise BackboneError(
            f"the preprocessor_config.json of backbone {name!r} cannot be served ({error}); its images must become "
            "squares of one size, RGB, normalised by a mean and a deviation of each channel"
        ) from error
    if not values["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return size, Preprocessing(resizing=resizing, white=white, mean=mean, std=std)


def scaled(size: int, preprocessing: Preprocessing, wanted: int | None) -> tuple[int, Resizing]:
    """(pixels a side, resizing) where another size is wanted than the model's own: the same share is cut off."""
    own = preprocessing.resizing
    if wanted is None or wanted == size:
        return size, own
    side = None if own.side is None else max(wanted, round(own.side * wanted / size))
    return wanted, Resizing(own.mode, side, own.interpolation, own.centre)


def _resizing(kind: str, values: dict[str, Any]) -> tuple[int, Resizing]:
    """(pixels a side, resizing) of a processor's values."""
    for key in ("do_pad", "rescale_offset", "do_flip_channel_order"):
        if values.get(key):
            raise ValueError(f"{key} = {shown(values[key])} is not served")
    if not values["do_resize"]:
        raise ValueError("do_resize = False is not served")
    filter_ = _FILTERS[shaped(int, values["resample"])]
    if kind == "Siglip2":  # NaFlex: as many patches as fit at any aspect ratio; here a square of them
        side = math.isqrt(shaped(int, values["max_num_patches"])) * shaped(int, values["patch_size"])
        return _checked(side), Resizing("squash", side, filter_, "floor")
    size = shaped(dict[str, int | None], values["size"])
    shorter, height, width = (size.get(key) for key in ("shortest_edge", "height", "width"))
    if shorter is None:
        if height is None or height != width or size.get("longest_edge"):
            raise ValueError(f"size = {shown(size)} is no square")
        own = _cut(values) if values.get("do_center_crop") else height
        return _checked(own, height), Resizing("squash", height, filter_, "floor")
    if kind == "ConvNext":
        if shorter >= _CROPS_BELOW:
            return _checked(shorter), Resizing("squash", shorter, filter_, "floor")
        side = int(shorter / shaped(float, values["crop_pct"]))
        return _checked(shorter, side), Resizing("crop", side, filter_, "floor")
    if not values.get("do_center_crop"):
        raise ValueError(f"size = {shown(size)} without do_center_crop is no square")
    return _checked(_cut(values), shorter), Resizing("crop", shorter, filter_, "floor")


def _cut(values: dict[str, Any]) -> int:
    size = shaped(dict[str, int | None], values["crop_size"])
    if size.get("height") is None or size.get("height") != size.get("width"):
        raise ValueError(f"crop_size = {shown(size)} is no square")
    return int(size["height"] or 0)


def _checked(size: int, side: int | None = None) -> int:
    """`size`, if a square of so many pixels can be cut from `side`."""
    if not 1 <= size <= (size if side is None else side) <= _MOST_SIDE:
        raise ValueError(f"a square of {size} pixels a side cannot be cut from {side}")
    return size


def _channels(value: Any) -> tuple[float, ...]:
    values = shaped(list[float], value if isinstance(value, list | tuple) else [value] * 3)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"{shown(value)} is not a number for each of 3 channels")
    return tuple(values)
