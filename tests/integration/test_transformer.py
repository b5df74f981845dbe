"""A tiny random DINOv2 from disk through embed to classifier: both feature columns, dimensions, inputs of the grid."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from icce_ray import commands, pipeline
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, PREDICTIONS
from icce_ray.store.verify import violations

from .conftest import tiny, write_digits

SIZE, WIDTH, COUNT = 28, 16, 60
INPUTS = {
    "cls": [[0, WIDTH]],
    "cls+patch_mean": [[0, 2 * WIDTH]],
    "last4.cls": [[2 * WIDTH, 6 * WIDTH]],
    "last4.cls+patch_mean": [[2 * WIDTH, 6 * WIDTH], [WIDTH, 2 * WIDTH]],
}


pytestmark = pytest.mark.slow(15)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(store, directory of the weights, folder of images)."""
    folder = tmp_path_factory.mktemp("transformer")
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=5, num_attention_heads=2, mlp_ratio=2, patch_size=7, image_size=SIZE
    )
    network, generator = Dinov2Model(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    network.save_pretrained(folder / "weights")
    write_digits(folder / "images", COUNT)
    embed = {
        "backbone": str(folder / "weights"),
        "features": "cls+patch_mean",
        "n_last_blocks": 4,
        "image_size": SIZE,
        "rows_per_shard": 25,
    }
    settings = tiny(
        folder / "images",
        folder / "run",
        clusters=4,
        embed=embed,
        heads={"heads": 3, "epochs": 3, "batch_size": 30},
        classifier={"iterations": 30},
    )
    pipeline.run(settings, verbose=False)
    return Store(settings.out), folder / "weights", folder / "images"


def shards(store):
    paths = [info.path for info in FEATURES.files(store.require("embed").files)]
    return [pq.ParquetFile(f"{store.root}/{path}").read() for path in paths]


def test_columns_are_the_backbones_own_output(run):
    store, weights, images = run
    backbone = load_backbone(describe_backbone(str(weights), "cls+patch_mean", n_last_blocks=4, image_size=SIZE))
    tables = shards(store)
    assert [len(table) for table in tables] == [25, 25, 10]
    for table in tables:
        assert table.schema.names == ["image_id", "uri", "key", "features", "cls_blocks"]
        options = {"size": SIZE, "resize": "squash", "max_pixels": 10**6}
        pixels = np.stack([decode((images / uri).read_bytes(), **options) for uri in table["uri"].to_pylist()])
        expected = backbone.embed(pixels)
        for name, own in (("features", expected.main), ("cls_blocks", expected.cls_blocks)):
            stored = np.array(table[name].to_pylist())
            assert str(table.schema.field(name).type.value_type) == "halffloat"
            np.testing.assert_allclose(stored, own, rtol=2e-3, atol=1e-4)
    embedded = store.metrics()["embed"]
    assert (embedded["dim"], embedded["block_dim"]) == (2 * WIDTH, 4 * WIDTH)
    assert embedded["layout"] == {"cls": [0, WIDTH], "patch_mean": [WIDTH, 2 * WIDTH]}


def test_the_grid_has_every_input_and_the_winner_predicts(run):
    store, _, images = run
    grid = pq.ParquetFile(f"{store.root}/classifier/grid.parquet").read().to_pylist()
    assert {point["input"] for point in grid} == set(INPUTS)
    assert len(grid) == 13 * len(INPUTS)
    description = json.loads(store.storage.read_bytes("classifier/classifier.json"))
    assert description["columns"] == INPUTS[description["input"]]
    assert list(violations(store)) == []
    out = Store(f"{store.root}-predicted")
    commands.predict(store.root, str(images), out.root, verbose=False)
    own, new = (
        [
            one.storage.read_table(info.path)["label"].to_pylist()
            for info in PREDICTIONS.files(one.require("predict").files)
        ]
        for one in (store, out)
    )
    assert own == new
