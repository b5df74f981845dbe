"""timm's models as a backbone, on tiny random ones saved as timm keeps them on the model hub."""

import io
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from icce_ray.backbones import BackboneError, describe_backbone, load_backbone
from icce_ray.io.decode import decode
from tests.failures import fails

timm = pytest.importorskip("timm", reason="timm is not installed (pip install icce-ray[timm])", exc_type=ImportError)

#: Architecture, and how it is made small.
TINY = {
    "vit_tiny_patch16_224": {"img_size": 48, "depth": 2, "embed_dim": 48},
    "resnet18": {"channels": [8, 8, 16, 24], "layers": [1, 1, 1, 1]},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]},
}


@pytest.fixture(scope="module", params=list(TINY))
def saved(request, tmp_path_factory):
    """(directory, the model itself)."""
    torch.manual_seed(0)
    model = timm.create_model(request.param, pretrained=False, num_classes=5, **TINY[request.param]).eval()
    data = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "crop_pct": 0.8, "input_size": (3, 48, 48)}
    model.pretrained_cfg = model.pretrained_cfg | data
    folder = tmp_path_factory.mktemp(request.param)
    timm.models.save_for_hf(model, folder, model_args=TINY[request.param], safe_serialization=True)
    return folder, model


def own_images(model, files):
    """As timm prepares them: float32 [B, 3, S, S]."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return torch.stack([transform(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def pictures(count=4):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(60, 300, (count, 2)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
        file = io.BytesIO()
        coarse.save(file, "PNG")
        yield file.getvalue()


def test_features_and_preprocessing_are_timms_own(saved):
    folder, model = saved
    info = describe_backbone(f"timm:{folder}")
    files = list(pictures())
    own = own_images(model, files)
    decoding = {"size": info.image_size, "resize": info.preprocessing.resizing, "max_pixels": 10**6}
    pixels = np.stack([decode(file, **decoding) for file in files])
    mean, std = (np.array(one)[:, None, None] for one in (info.preprocessing.mean, info.preprocessing.std))
    again = (np.moveaxis(pixels, 3, 1) / info.preprocessing.white - mean) / std
    apart = np.abs(again - own.numpy()) * std * 255  # in steps of a pixel
    assert apart.max() < 2.01
    assert apart.mean() < 0.05
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(torch.tensor(again).float()), pre_logits=True)
    result = load_backbone(info).embed(pixels)
    assert info.dim == result.main.shape[1] == expected.shape[1]
    np.testing.assert_allclose(result.main, expected, rtol=1e-5, atol=1e-5)


def test_other_sizes_and_weights_that_are_missing(saved, tmp_path):
    folder, model = saved
    if model.pretrained_cfg["fixed_input_size"]:
        with fails(BackboneError, "image_size is 96", "takes 48 only"):
            describe_backbone(f"timm:{folder}", image_size=96)
    else:
        info = describe_backbone(f"timm:{folder}", image_size=96)
        assert (info.image_size, info.preprocessing.resizing.side) == (96, 120)
        assert load_backbone(info).info == info
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if re.match(r"(blocks|layer1|stages).*[.]weight$", name))]
    save_file(weights, tmp_path / "model.safetensors")
    with fails(BackboneError, "missing weights", "1 in all"):
        load_backbone(describe_backbone(f"timm:{tmp_path}"))


def test_what_cannot_be_had(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with fails(BackboneError, "timm:vit_bas_patch16_224", "vit_base_patch16_224"):
        describe_backbone("timm:vit_bas_patch16_224")
    with fails(BackboneError, "resnet18", "cannot be reached"):
        describe_backbone("timm:resnet18")
    with fails(BackboneError, "config.json"):
        describe_backbone(f"timm:{tmp_path}")
    with fails(BackboneError, "n_last_blocks is 4"):
        describe_backbone(f"timm:{saved[0]}", n_last_blocks=4)
    with fails(BackboneError, "'pooled'"):
        describe_backbone(f"timm:{saved[0]}", "cls")
