"""Frozen image features: what a backbone is, and the kinds there are.

`pretrained` loads image models of transformers (DINOv2, the paper's, and the families of `families`), `timm_models`
those of timm; `hog` needs no weights and serves demonstrations, tests and plain shapes. `describe_backbone` checks
names and settings before any work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from icce_ray.io.rendering import Resize, Resizing

#: Pixels a side that DINOv2 sees by default (the paper's), and images of one forward pass on a CPU.
TRANSFORMER_SIZE, CPU_SLICE = 224, 8
#: What stands before the name of a model of timm.
TIMM = "timm:"


class BackboneError(ValueError):
    """A backbone that cannot be used as asked; the message names the value, the reason and the remedy."""


@dataclass(frozen=True)
class Features:
    """Features of a batch of B images.

    main: float32 [B, dim], not normalised.
    cls_blocks: float32 [B, block_dim], the CLS tokens of the last n blocks, the last block last, or None.
    """

    main: np.ndarray
    cls_blocks: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to what a network sees, as its own preprocessor_config.json or timm's data config has it.

    resizing: to a square of `BackboneInfo.image_size` pixels a side, done by the decoder.
    white: the pixel value that becomes 1; mean, std: of the three channels (RGB) after that. The network sees
    (pixels / white - mean) / std, and divides itself: `Backbone.embed` takes pixels.
    """

    resizing: Resizing = field(default_factory=Resizing)
    white: float = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What a backbone will give, known before its weights are loaded.

    image_size is 0 where features come from elsewhere and no image is read. layout names the slices of the main
    feature, for example {"cls": (0, d), "patch_mean": (d, 2 d)}, pooling says in words how they are made.
    block_dim is n_last_blocks * d, and 0 where only the last block is wanted. parts are those of several backbones.
    """

    name: str
    features: str
    dim: int
    image_size: int
    layout: dict[str, tuple[int, int]]
    block_dim: int
    preprocessing: Preprocessing = Preprocessing()
    pooling: str = ""
    parts: tuple[BackboneInfo, ...] = ()

    @property
    def models(self) -> tuple[BackboneInfo, ...]:
        """Each of several, or this one."""
        return self.parts or (self,)

    @property
    def input_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return sum(3 * model.image_size**2 for model in self.models)


class Backbone(Protocol):
    """A frozen network or descriptor.

    `embed` takes pixels uint8 [B, S, S, 3] (RGB, S = info.image_size; B may be 0) and raises ValueError for another
    shape or type. Batches are the caller's job; so are features that are zero or not finite, which some images give.
    """

    info: BackboneInfo

    def embed(self, pixels: np.ndarray) -> Features:
        """Features of a batch."""
        ...


def describe_backbone(
    name: str,
    features: str | None = None,
    *,
    n_last_blocks: int = 1,
    image_size: int | None = None,
    resize: Resize | None = None,
) -> BackboneInfo:
    """Check a choice of backbone and say what it gives, without loading weights.

    Args:
        name: `hog`; a local directory with config.json and safetensors weights, or an id on the model hub such as
            `facebook/dinov2-large`, of which only the configuration is fetched; or `timm:` and one of timm's names,
            a hub id (`timm:hf-hub:ID`) or a local directory.
        features: `cls`, `patch_mean`, `cls+patch_mean` or `pooled` of networks, as the family allows, `hog` or
            `hog+color` of HOG; None is what the family's authors classify linearly.
        n_last_blocks: 1, or 4 to have the CLS tokens of the last four blocks beside the main feature.
        image_size: side of the square input in pixels; None is the model's own, 224 for DINOv2 (the paper's) and 32
            for HOG.
        resize: `squash` or `crop` as `Resizing.named` has them; None is as the model's own processor does, but
            `squash` for DINOv2 (the paper) and HOG.

    Raises BackboneError.
    """
    info = _family(name).describe(name, features, n_last_blocks=n_last_blocks, image_size=image_size)
    if resize is None:
        return info
    own = info.preprocessing
    resizing = Resizing.named(resize, info.image_size, own.resizing.interpolation)
    return replace(info, preprocessing=replace(own, resizing=resizing))


def load_backbone(info: BackboneInfo, *, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """Load what `describe_backbone` has described, weights included.

    Args:
        info: the description.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA if there is one). HOG runs on the CPU whatever this says.
        dtype: of matrix products: `float32`, `bfloat16` (fast on CPUs that have it, slow on others), on CUDA also
            `float16`. Features come as float32 in any case. HOG knows float32 only.

    Raises BackboneError.
    """
    if info.parts:
        from icce_ray.backbones import several

        return several.load(info, device=device, dtype=dtype)
    return _family(info.name).load(info, device=device, dtype=dtype)


def load_module(info: BackboneInfo) -> Any:
    """The same as a module of torch, on the CPU and in float32: what an exported predictor is made of.

    It takes pixels uint8 [B, S, S, 3] and gives all features side by side, float32 [B, dim + block_dim], the main one
    first. Raises BackboneError.
    """
    module = getattr(load_backbone(info), "module", None)
    if module is None:
        raise BackboneError(f"the backbone {info.name!r} is no module of torch; use --format sklearn, of its features")
    return module().eval()


def _family(name: str) -> Any:
    """The module of a backbone's family, with its `describe` and `load`; those of networks take a second to import."""
    if name == "hog":
        from icce_ray.backbones import hog as family
    elif name.startswith(TIMM):
        from icce_ray.backbones import timm_models as family
    else:
        from icce_ray.backbones import pretrained as family
    return family


def check_pixels(pixels: np.ndarray, image_size: int) -> None:
    """Raise ValueError unless `pixels` is uint8 [B, image_size, image_size, 3]."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (image_size, image_size, 3):
        raise ValueError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; "
            f"this backbone takes uint8 [B, {image_size}, {image_size}, 3]"
        )


def chosen_features(name: str, features: str | None, kinds: tuple[str, ...]) -> str:
    """`features`, or the first of `kinds` in the place of None. Raises BackboneError for none of `kinds`."""
    if features is not None and features not in kinds:
        raise BackboneError(f"features {features!r} do not exist for the backbone {name!r}; use one of {list(kinds)}")
    return features or kinds[0]


class TransformerShape(BaseModel):
    """The shape of a DINOv2-like transformer, and the operations and bytes that follow from it, without loading one.

    A multiply-add counts as two operations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    ffn: Literal["mlp", "swiglu"] = "mlp"
    patch: int = Field(default=14, ge=1)
    registers: int = Field(default=0, ge=0)
    position_side: int = Field(default=518, ge=1)
    """Pixels a side of the images it was trained on: they set the number of position embeddings."""

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of a block's feed-forward part: 4 d; for SwiGLU 2/3 of it, to a multiple of 8."""
        return 4 * self.width if self.ffn == "mlp" else (int(4 * self.width * 2 / 3) + 7) // 8 * 8

    def tokens(self, side: int) -> int:
        """CLS, registers and patches of one image of `side` pixels a side."""
        return 1 + self.registers + (side // self.patch) ** 2

    def flops(self, side: int) -> float:
        """Operations of the matrix products of one image's forward pass."""
        tokens, d = self.tokens(side), self.width
        products = 3 if self.ffn == "swiglu" else 2  # SwiGLU has a gate beside the hidden layer
        block = 2 * tokens * (4 * d * d + products * d * self.hidden) + 4 * tokens * tokens * d
        return float(self.depth * block + 2 * (side // self.patch) ** 2 * 3 * self.patch**2 * d)

    @property
    def parameters(self) -> int:
        """All parameters, those of the mask token included."""
        d = self.width
        wide = 2 * self.hidden if self.ffn == "swiglu" else self.hidden
        feed_forward = d * wide + wide + self.hidden * d + d
        block = 4 * d * d + 4 * d + feed_forward + 4 * d + 2 * d  # attention, feed-forward, two norms, two layer scales
        positions = 1 + (self.position_side // self.patch) ** 2
        return self.depth * block + (3 * self.patch**2 + 1) * d + (positions + 2 + self.registers) * d + 2 * d

    def activation_bytes(self, side: int, batch: int, *, blocks: bool) -> float:
        """Bytes of a batch on its way through one block, at most (float32); with `blocks` every block's output too."""
        kept = self.depth + 1 if blocks else 1
        return 4.0 * batch * self.tokens(side) * (2 * self.hidden + (6 + kept) * self.width)


_SIZES: dict[str, tuple[int, int, Literal["mlp", "swiglu"]]] = {
    "small": (384, 12, "mlp"),
    "base": (768, 12, "mlp"),
    "large": (1024, 24, "mlp"),
    "giant": (1536, 40, "swiglu"),
}
#: The models that DINOv2 and its successor with registers published.
PUBLISHED = {
    f"facebook/dinov2-{prefix}{size}": TransformerShape(width=width, depth=depth, ffn=ffn, registers=registers)
    for prefix, registers in (("", 0), ("with-registers-", 4))
    for size, (width, depth, ffn) in _SIZES.items()
}
