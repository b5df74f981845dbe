"""Models of images and text whose features lie in one space: CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer

from icce_ray.backbones import BackboneError, BackboneInfo
from icce_ray.backbones.hub import REMEDY, find_model, unreadable
from icce_ray.backbones.network import Network
from icce_ray.backbones.processors import read_processor
from icce_ray.documents import shown
from icce_ray.io.stores import HeaderError, parsing

#: How texts are filled up to one length, by model_type: SigLIP was trained on texts of full length only.
_PADDING: dict[str, bool | str] = {"clip": True, "siglip": "max_length"}


class ImageText(Network):
    """Both towers of a model: `embed` gives features of pictures, `texts` those of texts, in the same space."""

    def __init__(self, info: BackboneInfo, model: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        """See `Network`."""
        super().__init__(
            info, model, lambda images: (_pooled(model.get_image_features(images)), None), device=device, dtype=dtype
        )
        config = model.config
        self._tokenizer = tokenizer
        self._options = {
            "padding": _PADDING[config.model_type],
            "truncation": True,
            "max_length": config.text_config.max_position_embeddings,
            "return_tensors": "pt",
        }
        # SigLIP attends to the tokens that fill a text up, as it did in training.
        self._inputs = ("input_ids", "attention_mask") if config.model_type == "clip" else ("input_ids",)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        """Features of n texts, float32 [n, dim]; longer ones than the model takes are cut."""
        found = np.empty((len(texts), self.info.dim), np.float32)
        for start in range(0, len(texts), batch):
            tokens = self._tokenizer(list(texts[start : start + batch]), **self._options)
            inputs = {name: tokens[name].to(self._device) for name in self._inputs}
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                found[start : start + batch] = _pooled(self._model.get_text_features(**inputs)).float().cpu().numpy()
        return found


def describe_pair(name: str) -> BackboneInfo:
    """Check a model of images and text, a local directory or a hub id, without its weights. Raises BackboneError."""
    files = find_model(name)
    try:
        with parsing():
            config = AutoConfig.from_pretrained(files.source, trust_remote_code=False, local_files_only=True)
    except (HeaderError, OSError, StrictDataclassError) as error:
        raise unreadable(name, error) from error
    if config.model_type not in _PADDING:
        raise BackboneError(
            f"{name!r} is a {shown(config.model_type, plain=True)}; names need images and text in one space, as of "
            f"{' or '.join(_PADDING)}, such as openai/clip-vit-large-patch14 or google/siglip2-base-patch16-224"
        )
    if not files.processor:
        raise BackboneError(f"{name!r} has no preprocessor_config.json; save its processor beside it (save_pretrained)")
    size, preprocessing = read_processor(name, files.processor)
    dim = config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size
    return BackboneInfo(
        name=name,
        features="pooled",
        dim=dim,
        image_size=size,
        layout={"pooled": (0, dim)},
        block_dim=0,
        preprocessing=preprocessing,
        pooling="as the model compares images with texts",
    )


def load_pair(info: BackboneInfo, *, device: str, dtype: str) -> ImageText:
    """Load what `describe_pair` has described, weights and tokenizer. Raises BackboneError."""
    files = find_model(info.name)
    try:
        model, missing = files.model()
        with parsing():
            tokenizer = AutoTokenizer.from_pretrained(files.source, trust_remote_code=False)
    except (HeaderError, OSError, RuntimeError, ImportError) as error:
        reason = shown(" ".join(str(error).split()), 300, plain=True)
        raise BackboneError(f"{info.name!r} cannot be loaded with its tokenizer ({reason}); {REMEDY}") from error
    if missing:
        raise BackboneError(f"{info.name!r} is not complete: missing weights {missing[:5]} ({len(missing)} in all)")
    pair = ImageText(info, model, tokenizer, device=device, dtype=dtype)
    pair.check()
    if not np.isfinite(pair.texts(["a photo"])).all():
        raise BackboneError(f"{info.name!r} gives texts features that are not finite; use another model")
    return pair


def _pooled(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output
