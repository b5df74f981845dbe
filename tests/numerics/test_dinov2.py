"""DINOv2 features against the model's own forward pass, on tiny random models saved to disk."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from icce_ray.backbones import BackboneError, describe_backbone, hub, load_backbone
from tests.failures import fails

SIZES = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 7}
TINY = {
    "plain": (Dinov2Model, Dinov2Config(image_size=28, **SIZES)),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(image_size=28, num_register_tokens=3, **SIZES)),
}


@pytest.fixture(scope="module", params=list(TINY))
def model(request, tmp_path_factory):
    """(directory, the model itself, number of registers); weights large enough for every term to matter."""
    kind, config = TINY[request.param]
    generator = torch.Generator().manual_seed(0)
    network = kind(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    folder = tmp_path_factory.mktemp(request.param)
    network.save_pretrained(folder)
    return str(folder), network, getattr(config, "num_register_tokens", 0)


def pixels(n=5, size=28):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def forward(network, images):
    """hidden states of every block and the tokens after the norm, from hooks rather than from transformers."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((images / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    hidden = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: hidden.append(out if torch.is_tensor(out) else out[0]))
        for layer in network.encoder.layer
    ]
    with torch.no_grad():
        output = network(pixel_values=x, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        for own, reported in zip(hidden, output.hidden_states[1:], strict=True):
            torch.testing.assert_close(own, reported)
        return [network.layernorm(h) for h in hidden], output.last_hidden_state


@pytest.mark.parametrize("size", [28, 42])  # the trained size, and one with interpolated positions
def test_features_are_the_models_own(model, size):
    folder, network, registers = model
    backbone = load_backbone(describe_backbone(folder, "cls+patch_mean", n_last_blocks=4, image_size=size))
    result = backbone.embed(pixels(size=size))
    hidden, tokens = forward(network, pixels(size=size))
    assert tokens.shape[1] == 1 + registers + (size // 7) ** 2
    assert backbone.info.layout == {"cls": (0, 32), "patch_mean": (32, 64)}
    assert result.main.dtype == result.cls_blocks.dtype == np.float32
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(result.main[:, :32], tokens[:, 0], **close)
    np.testing.assert_allclose(result.main[:, 32:], tokens[:, 1 + registers :].mean(1), **close)
    expected = torch.cat([h[:, 0] for h in hidden[-4:]], 1)
    np.testing.assert_allclose(result.cls_blocks, expected, **close)
    np.testing.assert_array_equal(result.cls_blocks[:, -32:], result.main[:, :32])


def test_cls_alone_and_no_blocks(model):
    folder, network, _ = model
    backbone = load_backbone(describe_backbone(folder, "cls", image_size=28))
    assert (backbone.info.dim, backbone.info.block_dim, backbone.info.layout) == (32, 0, {"cls": (0, 32)})
    result = backbone.embed(pixels())
    assert result.cls_blocks is None
    np.testing.assert_allclose(result.main, forward(network, pixels())[1][:, 0], rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_the_batch(model):
    backbone = load_backbone(describe_backbone(model[0], "cls+patch_mean", n_last_blocks=4, image_size=28))
    whole = backbone.embed(pixels())
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        part = backbone.embed(pixels()[rows])
        np.testing.assert_allclose(part.main, whole.main[rows], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(part.cls_blocks, whole.cls_blocks[rows], rtol=1e-5, atol=1e-5)
    empty = backbone.embed(pixels(0))
    assert (empty.main.shape, empty.cls_blocks.shape) == ((0, 64), (0, 128))


def test_slices_are_one_batch(model):
    backbone = load_backbone(describe_backbone(model[0], "cls+patch_mean", n_last_blocks=4, image_size=28))
    images = pixels(19)  # two slices and a part of one
    whole = backbone.embed(images)
    hidden, tokens = forward(model[1], images)
    np.testing.assert_allclose(whole.main[:, :32], tokens[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole.cls_blocks, torch.cat([h[:, 0] for h in hidden[-4:]], 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(backbone.embed(images[8:16]).main, whole.main[8:16])


def test_bfloat16_is_float32_to_three_digits(model):
    info = describe_backbone(model[0], "cls+patch_mean", n_last_blocks=4, image_size=28)
    exact, backbone = load_backbone(info), load_backbone(info, dtype="bfloat16")
    expected, got = exact.embed(pixels(9)), backbone.embed(pixels(9))
    for one, other in ((expected.main, got.main), (expected.cls_blocks, got.cls_blocks)):
        assert other.dtype == np.float32
        assert not np.array_equal(one, other)  # or nothing was computed in bfloat16
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.999
    kept = {
        weight.dtype
        for module in backbone._model.modules()
        if isinstance(module, torch.nn.Linear)
        for weight in module.parameters()
    }
    assert kept == {torch.bfloat16}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((pixels(8) / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tokens = model[1](pixel_values=x).last_hidden_state
    np.testing.assert_allclose(got.main[:8, :32], tokens[:, 0].float(), rtol=1e-3, atol=1e-3)


def test_two_threads_share_a_backbone(model):
    backbone = load_backbone(describe_backbone(model[0], "cls+patch_mean", n_last_blocks=4, image_size=28))
    batches = [pixels(n) for n in (3, 9, 17, 5, 12, 20)]
    expected = [backbone.embed(batch).main for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda batch: backbone.embed(batch).main, batches))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_description_needs_no_weights(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(model[1].config.to_dict()))
    (tmp_path / "model.safetensors").touch()
    info = describe_backbone(str(tmp_path), "cls+patch_mean", n_last_blocks=4)
    assert (info.dim, info.block_dim, info.image_size) == (64, 128, 224)
    with fails(BackboneError, "cannot be loaded"):
        load_backbone(describe_backbone(str(tmp_path), "cls"))


def test_missing_files(model, tmp_path):
    with fails(BackboneError, "config.json", "local directory"):
        describe_backbone(str(tmp_path), "cls")
    (tmp_path / "config.json").write_text("{}")
    with fails(BackboneError, "model.safetensors"):
        describe_backbone(str(tmp_path), "cls")
    (tmp_path / "model.safetensors").touch()
    with fails(BackboneError, "configuration", "cannot be read"):
        describe_backbone(str(tmp_path), "cls")
    for name in ("resnet50", "./nowhere", "../nowhere", str(tmp_path / "nowhere"), str(tmp_path / "config.json")):
        with fails(BackboneError, "'hog'", "dinov2-large"):
            describe_backbone(name, "cls")


def test_hub_ids_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with fails(BackboneError, "facebook/dinov2-large", "local directory", "'hog'"):
        describe_backbone("facebook/dinov2-large", "cls")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no server there
    assert not hub.hub_is_reachable()


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"features": "hog"}, ["'hog'", "['cls+patch_mean', 'cls', 'patch_mean']"]),
        ({"image_size": 30}, ["image_size 30", "patch size 7"]),
        ({"n_last_blocks": 6}, ["n_last_blocks is 6", "5 blocks"]),
        ({"device": "cuda:99"}, ["cuda:99", "GPUs"]),
        ({"device": "abacus"}, ["device 'abacus'"]),
        ({"dtype": "float16"}, ["'float16'", "'bfloat16' or 'float32'"]),
        ({"dtype": "int8"}, ["dtype 'int8'"]),
    ],
)
def test_bad_choices(model, options, facts):
    with fails(BackboneError, *facts):
        on = {name: options[name] for name in ("device", "dtype") if name in options}
        described = {name: value for name, value in options.items() if name not in on}
        load_backbone(describe_backbone(model[0], **{"features": "cls", **described}), **on)


def test_weights_that_are_missing_are_not_made_up(model, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(f"{model[0]}/model.safetensors")
    del weights["encoder.layer.1.norm1.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(model[1].config.to_dict()))
    with fails(BackboneError, "missing weights", "norm1"):
        load_backbone(describe_backbone(str(tmp_path), "cls", image_size=28))


def test_wrong_pixels(model):
    with fails(ValueError, "uint8 [B, 28, 28, 3]"):
        load_backbone(describe_backbone(model[0], "cls", image_size=28)).embed(pixels(size=14))


def test_a_model_with_another_interface_is_refused(tmp_path):
    config = ViTConfig(image_size=28, patch_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.num_register_tokens = 2  # announced, but a plain ViT has none
    ViTModel(config, add_pooling_layer=True).save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    with fails(BackboneError, "tokens of shape"):
        load_backbone(describe_backbone(str(tmp_path), "cls", image_size=28))
