"""A predictor as an image classifier of `transformers`, which loads it without any code of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from icce_ray.backbones import TIMM, BackboneInfo, load_module
from icce_ray.backbones.hub import find_model
from icce_ray.export.graphs import TOLERANCE, quiet
from icce_ray.export.predictor import Trained
from icce_ray.store import RunError

_OTHERWISE = "use --format onnx, which holds every predictor"


def write_huggingface(trained: Trained, folder: Path, names: list[str]) -> None:
    """config.json with id2label, model.safetensors, preprocessor_config.json: for pipeline("image-classification").

    The model is that of the backbone's own family with a linear classifier. What this reads is looked up in a forward
    pass of transformers, and the parts of our features that are found there get our weights. Raises RunError where
    another part is needed, or the backbone is not of transformers.
    """
    if trained.info is None or trained.info.name == "hog" or trained.info.name.startswith(TIMM):
        has = (
            "a source of features, or several backbones"
            if trained.info is None
            else f"the backbone {trained.info.name}"
        )
        raise RunError(f"--format huggingface needs a backbone of transformers, and the run has {has}; {_OTHERWISE}")
    size = trained.info.image_size
    with quiet():
        features = load_module(trained.info)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8))
    with quiet(), torch.no_grad():
        model, images = _classifier(trained.info.name, names), features.normalised(pixels)
        read = _read(model, trained.info.name, images)
        model.classifier.weight.copy_(_weight(trained, features(pixels), read))
        model.classifier.bias.copy_(trained.head.bias)
        found, expected = model(pixel_values=images).logits.softmax(-1), trained.head(features(pixels))
        if not (difference := float((found - expected).abs().max())) <= TOLERANCE:
            raise RunError(
                f"the model of transformers gives probabilities that differ by {difference:.2g} from ours (limit: "
                f"{TOLERANCE:g}); {_OTHERWISE}"
            )
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor(trained.info), indent=2) + "\n")


def _classifier(name: str, names: list[str]) -> Any:
    """The backbone's weights in its family's model for classification, its last layer still to be filled."""
    from transformers import AutoModelForImageClassification  # takes seconds
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    labels = dict(enumerate(names))
    try:
        model = AutoModelForImageClassification.from_pretrained(
            find_model(name).source,
            id2label=labels,
            label2id={text: label for label, text in labels.items()},
            ignore_mismatched_sizes=True,  # a classifier of other classes may be among the weights
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        ).eval()
    except ValueError as error:
        raise RunError(f"transformers has no image classifier for the backbone {name!r}; {_OTHERWISE}") from error
    if not isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        raise RunError(f"{type(model).__name__} of transformers has no linear classifier; {_OTHERWISE}")
    return model


def _read(model: Any, name: str, images: Tensor) -> Tensor:
    """What the last layer of `model` is given, [n, R]. Raises RunError for a model that takes no plain images."""
    inputs: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        model(pixel_values=images)
    except RuntimeError as error:
        raise RunError(
            f"{type(model).__name__} of {name!r} takes no images [n, 3, S, S] ({error}); {_OTHERWISE}"
        ) from error
    finally:
        hook.remove()
    return inputs[0]


def _weight(trained: Trained, features: Tensor, read: Tensor) -> Tensor:
    """float32 [K, R]: the head's weights where `read` [n, R] repeats parts of `features` [n, W], zero elsewhere.

    Raises RunError for a part that the head reads and `read` has not.
    """
    assert trained.info is not None, "there is a backbone"
    weight, layout = torch.zeros(trained.classes, read.shape[1]), trained.info.layout
    left = trained.head.weight.clone()
    for start, stop in layout.values():
        width = stop - start
        for place in range(0, read.shape[1] - width + 1, width):
            if torch.allclose(read[:, place : place + width], features[:, start:stop], rtol=1e-3, atol=1e-4):
                weight[:, place : place + width] = trained.head.weight[:, start:stop]
                left[:, start:stop] = 0
                break
    if left.any():
        needed = [part for part, (start, stop) in layout.items() if left[:, start:stop].any()]
        needed += ["the CLS tokens of earlier blocks"] if left[:, trained.info.dim :].any() else []
        raise RunError(
            f"the run's classifier reads {' and '.join(needed)} of {trained.info.name!r}, which the classifier of "
            f"transformers for this backbone does not see; {_OTHERWISE}"
        )
    return weight


def _processor(info: BackboneInfo) -> dict[str, Any]:
    """Our preprocessing as the image processors of transformers read it."""
    own, square = info.preprocessing, {"height": info.image_size, "width": info.image_size}
    side, crop = own.resizing.side or info.image_size, own.resizing.mode == "crop"
    cut = crop or side != info.image_size
    return {
        "image_processor_type": "BitImageProcessor" if cut else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side} if crop else {"height": side, "width": side},
        "resample": int(Image.Resampling[own.resizing.interpolation.upper()]),
        "do_center_crop": cut,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / own.white,
        "do_normalize": True,
        "image_mean": list(own.mean),
        "image_std": list(own.std),
    }
