"""Whole runs with tiny random models of three families from disk: features by their own preprocessing, and labels."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf

from icce_ray import commands, pipeline
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, PREDICTIONS

from .conftest import tiny, write_digits

COUNT, SIDE = 60, 32
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
CUT = {"size": {"shortest_edge": SIDE + 4}, "crop_size": {"height": SIDE, "width": SIDE}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
FAMILIES = {
    "clip": (
        lambda: hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VIT | {"image_size": SIDE})),
        lambda: hf.CLIPImageProcessorPil(**CUT),
        {"pooled": [0, 16]},
    ),
    "dinov3-convnext": (
        lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])),
        lambda: hf.ViTImageProcessorPil(**SQUARE),
        {"pooled": [0, 24]},
    ),
    "mae": (
        lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**VIT, image_size=SIDE)),
        lambda: hf.ViTImageProcessorPil(**SQUARE),
        {"cls": [0, 16]},
    ),
}

pytestmark = pytest.mark.slow(60)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_from_pictures_to_predictions(name, tmp_path):
    make, processor, layout = FAMILIES[name]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "weights")
    processor().save_pretrained(tmp_path / "weights")
    write_digits(tmp_path / "images", COUNT)
    settings = tiny(
        tmp_path / "images",
        tmp_path / "run",
        clusters=4,
        embed={"backbone": str(tmp_path / "weights"), "features": None, "rows_per_shard": 25},
        heads={"heads": 3, "epochs": 3, "batch_size": 30},
        classifier={"iterations": 30},
    )
    pipeline.run(settings, verbose=False)
    store = Store(settings.out)
    assert store.metrics()["embed"]["layout"] == layout
    info = describe_backbone(str(tmp_path / "weights"))
    backbone, options = load_backbone(info), {"size": SIDE, "resize": info.preprocessing.resizing, "max_pixels": 10**6}
    for file in FEATURES.files(store.require("embed").files):
        rows = pq.ParquetFile(f"{store.root}/{file.path}").read().to_pylist()
        pictures = [decode((tmp_path / "images" / row["uri"]).read_bytes(), **options) for row in rows]
        own = backbone.embed(np.stack(pictures)).main
        np.testing.assert_allclose([row["features"] for row in rows], own, rtol=2e-3, atol=1e-3)
    commands.predict(store.root, str(tmp_path / "images"), f"{store.root}-predicted", verbose=False)
    run, predicted = (
        [
            label
            for info in PREDICTIONS.files(one.require("predict").files)
            for label in one.storage.read_table(info.path)["label"].to_pylist()
        ]
        for one in (store, Store(f"{store.root}-predicted"))
    )
    assert run == predicted
    assert len(run) == COUNT
