"""A run's classifier as torch modules that carry everything they need: what every exported predictor is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icce_ray.backbones import BackboneInfo, describe_backbone, load_module
from icce_ray.export.resizing import FILTERS, resize
from icce_ray.settings import EmbedSettings
from icce_ray.store import Marker, RunError, Store, check_content
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_WEIGHTS
from icce_ray.store.views import is_precomputed


class Head(torch.nn.Module):
    """Probabilities float32 [B, K] of features [B, W]: all that a run stores of an image, side by side.

    Features that the classifier does not read have weight zero.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return torch.addmm(self.bias, features, self.weight.T).softmax(-1)


class Predictor(torch.nn.Module):
    """Probabilities float32 [B, K] of upright RGB pictures of any size, uint8 [B, H, W, 3]: `icce predict` in one."""

    resize: Callable[..., Tensor]

    def __init__(self, features: torch.nn.Module, head: Head, info: BackboneInfo) -> None:
        """`features` are those of `load_module`. Raises RunError for a filter that `resize` does not serve."""
        super().__init__()
        resizing = info.preprocessing.resizing
        if resizing.interpolation not in FILTERS:
            raise RunError(
                f"{info.name!r} resizes its pictures by the filter {resizing.interpolation!r}, which predictors do not "
                f"have ({', '.join(FILTERS)}); use --format sklearn, which takes features"
            )
        self.features, self.head, self.resize = features, head, resize
        self.size, self.side, self.crop = info.image_size, resizing.side or info.image_size, resizing.mode == "crop"
        self.floor, self.cubic = resizing.centre == "floor", resizing.interpolation == "bicubic"

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        small = self.resize(pixels, self.size, self.side, self.crop, self.floor, self.cubic)
        # The run's features are stored in half precision.
        return self.head(self.features(small).half().float())


@dataclass(frozen=True)
class Trained:
    """What a run leaves for new images.

    Attributes:
        head: of the stored features.
        info: of the backbone that makes them; None for a run of several, or whose source had features, not images.
        embed: how images were read and embedded.
        embedded: the marker of the stage that did.
    """

    head: Head
    info: BackboneInfo | None
    embed: EmbedSettings
    embedded: Marker

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return len(self.head.bias)

    def predictor(self) -> Predictor | None:
        """Backbone and head in one, its weights loaded; None without a backbone. Raises BackboneError."""
        if self.info is None:
            return None
        return Predictor(load_module(self.info), self.head, self.info).eval()


def read_trained(store: Store) -> Trained:
    """The classifier of a run. Raises RunError for anything but a run with one, BackboneError for its backbone."""
    if store.holds_prediction():
        raise RunError(f"{store.root} is the output of `icce predict`; give the run whose classifier it used")
    check_content(store, "classifier", CLASSIFIER_WEIGHTS.path, CLASSIFIER_DESCRIPTION.path)
    tensors, description = store.storage.read_tensors(CLASSIFIER_WEIGHTS.path), store.document(CLASSIFIER_DESCRIPTION)
    embedded, embed = store.require("embed"), EmbedSettings.model_validate(description.get("embed", {}))
    columns = np.concatenate([np.arange(*part) for part in description["columns"]])
    weight = torch.zeros(len(tensors["weight"]), embedded.summary["dim"] + embedded.summary["block_dim"])
    weight[:, columns] = tensors["weight"]
    info = None
    if isinstance(embed.backbone, str) and not is_precomputed(embedded.summary["layout"]):
        info = describe_backbone(
            embed.backbone,
            embed.features,
            n_last_blocks=embed.n_last_blocks,
            image_size=embed.image_size,
            resize=embed.resize,
        )
    return Trained(Head(weight, tensors["bias"]).eval(), info, embed, embedded)
