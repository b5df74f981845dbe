"""A run of two feature spaces: neighbours and heads in each and joined, one consensus, also after a kill."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from transformers import Dinov2Config, Dinov2Model

from icce_ray import pipeline
from icce_ray.commands import predict
from icce_ray.settings import load
from icce_ray.settings.stages import ListSettings
from icce_ray.stages.classifier import grid_inputs
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import checkpoint_of
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.failures import fails

from .conftest import TINY, tiny, write_digits
from .drivers import Driver, rows, run_command, shared_cluster, stamps

IMAGES, HEADS, EPOCHS = 120, 8, 6
SPACES = ("pixels", "blurred", "joined")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Digits as two columns, of which the last image lacks one."""
    pixels = load_digits().data[:IMAGES].astype(np.float32) + 1
    blurred = pixels.reshape(IMAGES, 16, 4).mean(2)
    path = tmp_path_factory.mktemp("spaces") / "features.parquet"
    columns = {"pixels": [*pixels], "blurred": [*blurred[:-1], None]}
    pq.write_table(pa.table({"id": list(map(str, range(IMAGES)))} | columns), path)
    return path


def settings_of(source, out):
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in TINY.items()}
    values["embed"] = {"rows_per_shard": 64}
    values["heads"] |= {"heads": HEADS, "epochs": EPOCHS, "checkpoint_epochs": 2}
    return load(values | {"source": str(source), "out": str(out), "list": {"column": "pixels,blurred"}})


@pytest.fixture(scope="session")
def whole(source, tmp_path_factory):
    settings = settings_of(source, tmp_path_factory.mktemp("whole") / "run")
    pipeline.run(settings, verbose=False)
    return Store(settings.out)


@pytest.mark.slow(60)
def test_every_space_has_neighbours_and_heads_and_all_have_one_consensus(whole, source, tmp_path):
    figures = whole.metrics()
    assert figures["embed"]["spaces"] == {"pixels": [0, 64], "blurred": [64, 80]}
    assert figures["embed"]["rejected_by_reason"] == {"nonfinite_feature": 1}
    assert list(figures["heads"]["head_spaces"]) == list(SPACES)
    assert figures["heads"]["head_spaces"]["joined"] == [HEADS // 2, HEADS]
    assert figures["heads"]["heads"] == HEADS == len(rows(whole, "head_labels")[0]["labels"])
    inputs = grid_inputs(FeatureRows.of(whole), np.zeros((1, 80), np.float16))[1]
    assert inputs == {"pixels": [(0, 64)], "blurred": [(64, 80)], "pixels+blurred": [(0, 80)]}
    assert list(violations(whole)) == []
    labelled = predict(
        whole.root, str(source), str(tmp_path / "out"), kind=ListSettings(column="pixels,blurred"), verbose=False
    )
    assert labelled["labelled"] == IMAGES - 1
    assert rows(Store(str(tmp_path / "out")), "predictions") == rows(whole, "predictions")
    for column, message in (("blurred,pixels", "the feature spaces blurred, pixels"), ("pixels", "one feature space")):
        with fails(RunError, message, "reads the feature spaces pixels, blurred"):
            predict(whole.root, str(source), str(tmp_path / "x"), kind=ListSettings(column=column), verbose=False)


@pytest.mark.slow(40)
@pytest.mark.faults
def test_a_run_goes_on_in_the_space_in_which_it_was_killed(whole, source, tmp_path, ends):
    settings = settings_of(source, tmp_path / "run")
    store = Store(settings.out)
    with barrier(store, checkpoint_of("heads", "blurred"), passes=1) as held:
        Driver(run_command(settings, tmp_path), tmp_path, ends, shared_cluster()).kill_at(held)
    assert {path.split("/")[1] for path in stamps(store, "head_labels")} == {"pixels"}
    kept = stamps(store, "neighbors", "heads/pixels")
    with barrier(store, checkpoint_of("heads", "joined")) as held:
        Driver(run_command(settings, tmp_path), tmp_path, ends, shared_cluster()).kill_at(held)
    assert stamps(store, "neighbors", "heads/pixels").items() >= kept.items()
    pipeline.run(settings, verbose=False)
    for artifact in ("head_labels", "consensus", "predictions", "neighbors"):
        assert rows(store, artifact) == rows(whole, artifact)
    assert list(violations(store)) == []
    assert not [path for path, _ in store.storage.list("heads") if "checkpoint" in path]


@pytest.fixture
def weights(tmp_path):
    """Directory of a tiny random DINOv2."""
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=7, image_size=28)
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


@pytest.mark.slow(90)
@pytest.mark.faults
def test_two_backbones_from_images_to_predictions_over_two_kills(weights, tmp_path, ends):
    write_digits(tmp_path / "images", 60)
    (tmp_path / "images" / "none.png").write_bytes(b"no picture")
    embed = {"backbone": ["hog", str(weights)], "features": None, "image_size": 56, "rows_per_shard": 20}
    values = {"clusters": 4, "embed": embed, "heads": {"heads": 8, "epochs": 3, "batch_size": 30}}
    settings = tiny(tmp_path / "images", tmp_path / "run", **values)
    store = Store(settings.out)
    for glob, passes in (("features/status=ok/part-*", 1), (checkpoint_of("heads", "joined"), 0)):
        with barrier(store, glob, passes=passes) as held:
            Driver(run_command(settings, tmp_path), tmp_path, ends, shared_cluster()).kill_at(held)
    pipeline.run(settings, verbose=False)
    unbroken = settings.model_copy(update={"out": str(tmp_path / "unbroken")})
    pipeline.run(unbroken, verbose=False)
    for artifact in ("features/status=ok", "neighbors", "head_labels", "consensus", "predictions"):
        assert rows(store, artifact) == rows(Store(unbroken.out), artifact)
    figures = store.metrics()
    assert figures["embed"]["spaces"] == {"hog": [0, 372], "dino": [372, 404]}
    assert figures["embed"]["rejected"] == 1
    assert figures["neighbors"]["by_space"]["dino"]["weight"] == 0.0, "random weights show no groups"
    assert figures["heads"]["head_spaces"] == {"hog": [0, 4], "joined": [4, 8]}
    assert list(violations(store)) == []
    predict(store.root, str(tmp_path / "images"), str(tmp_path / "out"), verbose=False)
    assert rows(Store(str(tmp_path / "out")), "predictions") == rows(store, "predictions")
    assert store.settings().embed.backbones == ("hog", str(weights))
