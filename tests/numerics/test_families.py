"""Features of each family of image models against its own forward pass, on tiny random models saved to disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from icce_ray.backbones import BackboneError, describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.io.rendering import Resizing
from tests.failures import fails
from tests.pictures import encode, scene

SIDE = 32
VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
TOWER = VIT | {"image_size": SIDE}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
STAGES = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
CUT = {"size": {"shortest_edge": SIDE + 4}, "crop_size": {"height": SIDE, "width": SIDE}}
OWN = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


def tokens(first):
    """CLS and mean of the patches, from what the model returns."""

    def parts(output):
        hidden = output.last_hidden_state
        return {"cls": hidden[:, 0], "patch_mean": hidden[:, first:].mean(1)}

    return parts


def pooled(output):
    return {"pooled": output.pooler_output.flatten(1)}


#: Name: the whole model, its processor, the default features, what they are of the output of the image model alone.
FAMILIES = {
    "dinov2": (
        lambda: hf.Dinov2Model(hf.Dinov2Config(**{**VIT, "mlp_ratio": 2}, image_size=SIDE)),
        (hf.BitImageProcessorPil, CUT),
        ("cls+patch_mean", tokens(1)),
    ),
    "dinov2-registers": (
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VIT, mlp_ratio=2, image_size=SIDE)),
        (hf.BitImageProcessorPil, CUT),
        ("cls+patch_mean", tokens(5)),
    ),
    "dinov3-vit": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**TOWER, num_register_tokens=4)),
        (hf.ViTImageProcessorPil, SQUARE),
        ("cls+patch_mean", tokens(5)),
    ),
    "dinov3-convnext": (
        lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**STAGES)),
        (hf.ViTImageProcessorPil, SQUARE),
        ("pooled", pooled),
    ),
    "siglip": (
        lambda: hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=TOWER)),
        (hf.SiglipImageProcessorPil, SQUARE),
        ("pooled", pooled),
    ),
    "siglip2-naflex": (
        lambda: hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=VIT | {"num_patches": 16})),
        (hf.Siglip2ImageProcessorPil, {"max_num_patches": 16, "patch_size": 8}),
        ("pooled", pooled),
    ),
    "clip": (
        lambda: hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=8)),
        (hf.CLIPImageProcessorPil, CUT),
        ("pooled", pooled),
    ),
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**TOWER)),  # without the pooler's weights
        (hf.ViTImageProcessorPil, SQUARE),
        ("cls", tokens(1)),
    ),
    "deit": (lambda: hf.DeiTModel(hf.DeiTConfig(**TOWER)), (hf.DeiTImageProcessorPil, CUT), ("cls", tokens(2))),
    "mae": (
        lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**TOWER, decoder_hidden_size=16, decoder_num_hidden_layers=1)),
        (hf.ViTImageProcessorPil, SQUARE),
        ("cls", tokens(1)),
    ),
    "ijepa": (
        lambda: hf.IJepaModel(hf.IJepaConfig(**TOWER)),
        (hf.ViTImageProcessorPil, SQUARE),
        ("patch_mean", tokens(0)),
    ),
    "swin": (
        lambda: hf.SwinModel(
            hf.SwinConfig(image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
        ),
        (hf.ViTImageProcessorPil, SQUARE),
        ("pooled", pooled),
    ),
    "convnext": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(**STAGES)),
        (hf.ConvNextImageProcessorPil, {"size": {"shortest_edge": SIDE}}),
        ("pooled", pooled),
    ),
    "resnet": (
        lambda: hf.ResNetModel(hf.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic")),
        (hf.ConvNextImageProcessorPil, {"size": {"shortest_edge": SIDE}}),
        ("pooled", pooled),
    ),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def saved(request, tmp_path_factory):
    """(family, directory of the whole model and its processor); weights large enough for every term to matter."""
    make, (kind, options), _ = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    network, generator = make(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    network.save_pretrained(folder)
    kind(**OWN, **options).save_pretrained(folder)
    if "dinov3" in request.param:  # the class of its processor needs torchvision; its file is ViT's by another name
        file = folder / "preprocessor_config.json"
        file.write_text(file.read_text().replace("ViTImageProcessor", "DINOv3ViTImageProcessorFast"))
    return request.param, folder


def pixels(n=5, side=SIDE):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def own_output(folder, images):
    """Of the image model alone, by its own loader, on images as its processor normalises them."""
    config = hf.AutoConfig.from_pretrained(folder)
    config = getattr(config, "vision_config", config)
    naflex = config.model_type == "siglip2_vision_model"
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    model = AutoModel.from_pretrained(folder, config=config).eval()
    if naflex:
        inputs = hf.Siglip2ImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="pt")
    else:
        x = (images / 255 - np.array(OWN["image_mean"])) / np.array(OWN["image_std"])
        inputs = {"pixel_values": torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)}
    with torch.no_grad():
        return model(**inputs)


def test_features_are_the_models_own(saved):
    name, folder = saved
    _, _, (features, parts) = FAMILIES[name]
    info = describe_backbone(str(folder), image_size=SIDE if name.startswith("dinov2") else None)
    assert (info.features, info.image_size) == (features, SIDE)
    assert info.pooling
    expected = parts(own_output(folder, pixels()))
    backbone = load_backbone(info)
    result = backbone.embed(pixels())
    assert result.main.shape == (5, info.dim)
    np.testing.assert_array_equal(
        result.main, backbone.embed(pixels()).main
    )  # nothing is drawn: MAE masks and shuffles
    assert set(info.layout) == set(features.split("+"))
    for part, (start, stop) in info.layout.items():
        np.testing.assert_allclose(result.main[:, start:stop], expected[part], rtol=1e-5, atol=1e-5)
    assert np.ptp(result.main, axis=0).max() > 1e-3, "features do not depend on the image"
    if name in ("siglip", "swin", "convnext"):  # whose modules are others than DINOv2's
        rounded = load_backbone(info, dtype="bfloat16").embed(pixels()).main
        cosine = (rounded * result.main).sum(1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(result.main, axis=1)
        assert cosine.min() > 0.99


def test_images_are_prepared_as_by_its_own_processor(saved):
    """To 2 of 255: decoding and resizing are ours. DINOv2's are squashed unless asked otherwise, as in the paper."""
    name, folder = saved
    info = describe_backbone(str(folder))
    prepared = info.preprocessing
    assert (prepared.mean, prepared.std) == (tuple(OWN["image_mean"]), tuple(OWN["image_std"]))
    if name.startswith("dinov2"):
        assert (info.image_size, prepared.resizing) == (224, Resizing("squash", None, "bicubic"))
        return
    picture = scene(51, 70) if "naflex" not in name else scene(70, 70)  # at its own aspect ratio a square too
    pixels = decode(encode(picture, "PNG"), size=info.image_size, resize=prepared.resizing, max_pixels=10**6)
    kind, _ = FAMILIES[name][1]
    theirs = kind.from_pretrained(folder)(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    if "naflex" in name:
        theirs = theirs.reshape(4, 4, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3).transpose(2, 0, 1)
    ours = (pixels / prepared.white - prepared.mean) / prepared.std
    apart = np.abs(ours - theirs.transpose(1, 2, 0)) * prepared.std * 255
    assert apart.max() < 2.01
    assert apart.mean() < 0.1


@pytest.mark.parametrize("name", ["dinov3-vit", "vit", "mae"])
def test_blocks_and_other_sizes(name, tmp_path):
    """CLS tokens of the last four blocks, after the final norm; positions interpolated at another size."""
    make, (kind, options), _ = FAMILIES[name]
    torch.manual_seed(1)
    make().save_pretrained(tmp_path)
    kind(**OWN, **options).save_pretrained(tmp_path)
    info = describe_backbone(str(tmp_path), "cls", n_last_blocks=4, image_size=48)
    result = load_backbone(info).embed(pixels(side=48))
    assert (info.image_size, info.preprocessing.resizing.side) == (48, 48)
    assert result.cls_blocks.shape == (5, 64)
    np.testing.assert_array_equal(result.cls_blocks[:, -16:], result.main)
    hidden = []
    network = load_backbone(info)
    model = network._model
    layers = next(one for name, one in model.named_modules() if name in ("layers", "model.layer", "encoder.layer"))
    for layer in layers:
        layer.register_forward_hook(lambda _m, _i, out: hidden.append(out if torch.is_tensor(out) else out[0]))
    network.embed(pixels(side=48))
    norm = getattr(model, "layernorm", None) or model.norm
    with torch.inference_mode():
        expected = torch.cat([norm(one[:, 0]) for one in hidden], 1)
    np.testing.assert_allclose(result.cls_blocks, expected, rtol=1e-5, atol=1e-5)


def test_what_a_family_cannot_give(saved):
    name, folder = saved
    folder = str(folder)
    pools = "cls" not in FAMILIES[name][2][0]
    with fails(BackboneError, "features 'hog'", *FAMILIES[name][2][0].split("+")):
        describe_backbone(folder, "hog")
    if pools:
        with fails(BackboneError, "n_last_blocks is 4"):
            describe_backbone(folder, n_last_blocks=4)
    (Path(folder) / "preprocessor_config.json").rename(Path(folder) / "elsewhere.json")
    try:
        if name.startswith("dinov2"):
            assert describe_backbone(folder).preprocessing.mean == (0.485, 0.456, 0.406)
        else:
            with fails(BackboneError, "preprocessor_config.json", "save_pretrained"):
                describe_backbone(folder)
    finally:
        (Path(folder) / "elsewhere.json").rename(Path(folder) / "preprocessor_config.json")


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    """The text tower need not be there; every weight of the image tower must."""
    make, (kind, options), _ = FAMILIES["clip"]
    make().save_pretrained(tmp_path)
    kind(**options).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    image = {key: value for key, value in weights.items() if key.startswith("vision_model.")}
    assert len(image) < len(weights)
    save_file(image, tmp_path / "model.safetensors", {"format": "pt"})
    assert load_backbone(describe_backbone(str(tmp_path))).info.dim == 16
    del image["vision_model.post_layernorm.weight"]
    save_file(image, tmp_path / "model.safetensors", {"format": "pt"})
    with fails(BackboneError, "missing weights", "post_layernorm"):
        load_backbone(describe_backbone(str(tmp_path)))
