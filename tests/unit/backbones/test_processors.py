"""Preprocessing as a model's own image processor does it; decoding and resizing are ours.

To 2 of 255, and 10 in at most 0.3 % of the values (`rendering.square`).
"""

import json

import numpy as np
import pytest
import transformers
from PIL import Image

from icce_ray.backbones import BackboneError, Preprocessing
from icce_ray.backbones.processors import read_processor, scaled
from icce_ray.io.decode import decode
from icce_ray.io.rendering import Resizing
from tests.failures import fails
from tests.pictures import encode, scene

#: Processor and what its file says, as the hub has it of models of the family, and (side, crop or squash, resized to).
FILES = {
    "dinov2": ("Bit", {"size": {"shortest_edge": 256}}, (224, "crop", 256)),
    "clip": ("CLIP", {"size": {"shortest_edge": 224}}, (224, "crop", 224)),
    "clip-old": ("CLIP", {"size": 224, "crop_size": 224}, (224, "crop", 224)),
    "siglip": ("Siglip", {"size": {"height": 256, "width": 256}}, (256, "squash", 256)),
    "vit": ("ViT", {}, (224, "squash", 224)),
    "ijepa": ("ViT", {"size": {"height": 448, "width": 448}, "resample": 3}, (448, "squash", 448)),
    "deit": ("DeiT", {}, (224, "squash", 256)),
    "beit": ("Beit", {}, (224, "squash", 224)),
    "convnext": ("ConvNext", {"size": {"shortest_edge": 224}}, (224, "crop", 256)),
    "convnext-384": ("ConvNext", {"size": {"shortest_edge": 384}}, (384, "squash", 384)),
    "raw": ("ViT", {"do_rescale": False, "do_normalize": False, "resample": 1}, (224, "squash", 224)),
}
OWN = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_those_of_the_models_own_processor(name):
    kind, given, expected = FILES[name]
    content = {"image_processor_type": f"{kind}ImageProcessor", **OWN, **given}
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_dict(content)
    size, own = read_processor("model", json.loads(json.dumps(content)))
    assert (size, own.resizing.mode, own.resizing.side) == expected
    for shape in ((500, 375), (341, 600), (90, 121)):  # larger both ways, wide, smaller
        picture = scene(*shape)
        pixels = decode(encode(picture, "PNG"), size=size, resize=own.resizing, max_pixels=10**6)
        ours = (pixels / own.white - own.mean) / own.std
        theirs = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        apart = np.abs(ours - theirs) * own.std * own.white  # in steps of a pixel
        assert apart.max() < 10.01  # at edges of full contrast
        assert (apart > 2.01).mean() < 0.003
        assert apart.mean() < 0.05


def test_dinov3_is_vits_processor_with_imagenets_mean():
    own = {"image_processor_type": "DINOv3ViTImageProcessorFast"}
    imagenet = Preprocessing(
        resizing=Resizing("squash", 224, "bilinear", "floor"), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert read_processor("model", own) == (224, imagenet)
    assert read_processor("model", own | {"image_mean": 0.5})[1].mean == (0.5, 0.5, 0.5)


def test_another_size_cuts_the_same_share():
    size, own = read_processor("model", {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 256}})
    assert scaled(size, own, None) == (224, own.resizing)
    assert scaled(size, own, 448) == (448, Resizing("crop", 512, "bicubic", "floor"))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, ["LevitImageProcessor", "ViTImageProcessor"]),
        ({"image_processor_type": "EfficientNetImageProcessor"}, ["EfficientNet"]),  # normalises twice
        ({"image_processor_type": None}, ["preprocessor_config.json"]),
        ({"size": {"height": 224, "width": 196}}, ["'width': 196"]),
        ({"size": {"shortest_edge": 224}}, ["do_center_crop"]),
        ({"do_pad": True}, ["do_pad"]),
        ({"do_resize": False}, ["do_resize"]),
        ({"resample": 9}, ["index"]),
        ({"image_std": [0, 1, 1]}, ["image_std"]),
        ({"image_mean": [0.5]}, ["3 channels"]),
        ({"image_mean": "grey"}, ["number"]),
        ({"rescale_factor": 0}, ["division"]),
        ({"size": {"height": 10**6, "width": 10**6}}, ["1000000"]),
        ({"size": [[[]]]}, ["model"]),
    ],
    ids=str,
)
def test_what_is_not_served(change, facts):
    with fails(BackboneError, "model", *facts):
        read_processor("model", {"image_processor_type": "ViTImageProcessor", **change})
