"""Families of image models: how their authors make one feature of an image, for linear classification."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """What models of one `model_type` give.

    features: the kinds there are, the authors' own first.
    special: tokens before those of the patches (CLS, distillation), registers not counted.
    pooled: how the model itself makes its `pooler_output`, in words.
    """

    features: tuple[str, ...]
    special: int = 1
    pooled: str = "the model's own pooled output"


_DINO = Family(("cls+patch_mean", "cls", "patch_mean"))
_CLS = Family(("cls", "cls+patch_mean", "patch_mean"))
_MEAN = Family(("pooled",), pooled="mean over all positions, normalised")
#: By the model_type of config.json; of a model of images and text its image tower's. Any other has its pooled output.
FAMILIES = {
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_vit": _DINO,
    "vit": _CLS,
    "vit_msn": _CLS,
    "vit_mae": _CLS,
    "deit": Family(_CLS.features, special=2),
    "ijepa": Family(("patch_mean",), special=0),
    "clip_vision_model": Family(("pooled",), pooled="CLS token after the final norm, before the projection to text"),
    "siglip_vision_model": Family(("pooled", "patch_mean"), special=0, pooled="the model's attention pooling"),
    "siglip2_vision_model": Family(("pooled", "patch_mean"), special=0, pooled="the model's attention pooling"),
    "swin": _MEAN,
    "swinv2": _MEAN,
    "convnext": _MEAN,
    "convnextv2": _MEAN,
    "dinov3_convnext": _MEAN,
}
#: Families whose pictures are squashed unless asked otherwise (the paper), whatever their processor says.
SQUASHED = ("dinov2", "dinov2_with_registers")

_WORDS = {
    "cls": "CLS token after the final norm",
    "patch_mean": "mean of the patch tokens after the final norm",
}


def family_of(model_type: str) -> Family:
    """The family of a model; that of an unknown one has the model's own pooled output."""
    return FAMILIES.get(model_type, Family(("pooled",)))


def pooling(family: Family, features: str) -> str:
    """How the feature is made, in words."""
    return " and ".join(_WORDS.get(part, family.pooled) for part in features.split("+"))
