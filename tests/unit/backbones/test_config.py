"""A model's directory from outside: whatever its config.json or its index says, it is one line that names the model."""

import json

import pytest

from icce_ray.backbones import BackboneError, describe_backbone
from tests.failures import fails

GOOD = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


def model(folder, config, index=None):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "model.safetensors").touch()
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder)


def test_a_good_one(tmp_path):
    assert describe_backbone(model(tmp_path, GOOD), "cls").dim == 16


@pytest.mark.parametrize(
    "config",
    [
        *("", "null", "[]", "{", "[" * 100_000, '{"a":' * 100_000, '"dinov2"', '{"model_type": 7}'),
        *(GOOD | change for change in ({"hidden_size": "16"}, {"hidden_size": -16}, {"patch_size": [14]})),
        *(GOOD | change for change in ({"num_hidden_layers": 10**30}, {"patch_size": None}, {"model_type": ["x"]})),
    ],
    ids=lambda config: str(config)[:60],
)
def test_hostile_configs(tmp_path, config):
    with fails(BackboneError, tmp_path, "hog"):
        describe_backbone(model(tmp_path, config), "cls")


def test_models_of_timm_and_of_text_are_told_apart(tmp_path):
    with fails(BackboneError, f"timm:{tmp_path}", "icce-ray[timm]"):
        describe_backbone(model(tmp_path, {"architecture": "resnet18", "pretrained_cfg": {}}))
    with fails(BackboneError, tmp_path, "preprocessor_config.json"):
        describe_backbone(model(tmp_path, {"model_type": "bert"}))


@pytest.mark.parametrize("index", [[], {"weight_map": []}, {"weight_map": {"a": 7}}, {"weight_map": {"a": "b.bin"}}])
def test_hostile_indices(tmp_path, index):
    with fails(BackboneError, tmp_path, "hog"):
        describe_backbone(model(tmp_path, GOOD, index), "cls")
