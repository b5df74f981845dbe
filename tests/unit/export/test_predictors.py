"""Exported predictors, used by the code of their own cards in a process that has neither Ray nor this package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import Dinov2Config, Dinov2Model

from icce_ray.export.graphs import quiet
from icce_ray.export.predictors import export_predictor
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES
from tests.exported_runs import CLASSES, WITHOUT_US, classified_run, commit, finish, predictions
from tests.failures import fails
from tests.small_run import features, predicted

#: Runs the code of the card in this folder on each file given, under the name that the code reads.
ALONE = f"""{WITHOUT_US}
import re, shutil
from pathlib import Path

sys.path.insert(0, "")
(code,) = re.findall(r"```python\\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
for given in sys.argv[2:]:
    shutil.copy(given, sys.argv[1])
    exec(code, {{}})
"""
NAMES = ["Katze", "dog | \U0001f436", "class-002", "Katze"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of parts of two photographs, of several sizes and aspect ratios."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(6):
        photo = load_sample_images().images[number % 2]
        (top, left), (height, width) = draw.integers(0, 200, 2), draw.integers(40, 160, 2)
        Image.fromarray(np.ascontiguousarray(photo[top : top + height, left : left + width])).save(
            folder / f"{number}.png"
        )
    return folder


@pytest.fixture(scope="module")
def hog(photos, tmp_path_factory):
    return classified_run(tmp_path_factory.mktemp("hog") / "run", photos, backbone="hog", features="hog+color")


@pytest.fixture(scope="module")
def dinov2(photos, tmp_path_factory):
    """A run with a tiny random DINOv2, whose classifier reads the CLS token and the patches' mean."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=7, image_size=56
    )
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Dinov2Model(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    network.save_pretrained(folder / "weights")
    embed = {"backbone": str(folder / "weights"), "features": "cls+patch_mean", "image_size": 28}
    return classified_run(folder / "run", photos, **embed)


@pytest.fixture
def export(tmp_path):
    """Export as a form; the folder."""

    def call(store, form):
        names = tmp_path / "names.csv"
        names.write_text("label,name\n0,Katze\n1,dog | \U0001f436\n3,Katze\n")
        assert export_predictor(store, form, str(tmp_path / form), Progress(), names=str(names)) == CLASSES
        return tmp_path / form

    return call


def answers(folder, name, inputs):
    """What the code of the card prints for each of the files, which it reads as `name`."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE, name, *map(str, inputs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def pictures(store):
    return [f"{store.settings().source}/{key}" for key in predictions(store)[0]]


def agree(names, probabilities, store, tolerance=1e-3):
    """What was found against the run's own predictions."""
    _, labels, confidences = predictions(store)
    assert names == [NAMES[label] for label in labels]
    np.testing.assert_allclose(probabilities, confidences, rtol=0, atol=tolerance)
    assert len(set(labels.tolist())) > 1


def split(lines):
    """(names, probabilities) of lines `NAME PROBABILITY`."""
    pairs = [line.rsplit(" ", 1) for line in lines]
    return [name for name, _ in pairs], [float(probability) for _, probability in pairs]


@pytest.mark.parametrize("form", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow(10))])
def test_hog_and_its_classifier_leave_whole(hog, export, form):
    folder = export(hog, form)
    agree(*split(answers(folder, "photo.jpg", pictures(hog))), hog, tolerance=1e-4)


@pytest.mark.slow(12)
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_transformer_leaves_whole(dinov2, export, form):
    folder = export(dinov2, form)
    agree(*split(answers(folder, "photo.jpg", pictures(dinov2))), dinov2)


@pytest.mark.slow(12)
def test_transformers_loads_its_own_classifier(dinov2, export):
    folder = export(dinov2, "huggingface")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Dinov2ForImageClassification"]
    assert list(config["id2label"].values()) == [*NAMES[:3], "Katze-003"]  # a second one of the same name
    found = [ast.literal_eval(line)[0] for line in answers(folder, "photo.jpg", pictures(dinov2))]
    names = [one["label"].removesuffix("-003") if "Katze" in one["label"] else one["label"] for one in found]
    # The run has rounded its features to half precision, which this does not.
    agree(names, [one["score"] for one in found], dinov2, tolerance=5e-3)


@pytest.mark.parametrize("classes", [CLASSES, pytest.param(2, marks=pytest.mark.slow(3))])
def test_scikit_learn_has_the_same_probabilities(photos, tmp_path, classes):
    """Of two classes it keeps one row of coefficients; columns that the classifier does not read count nothing."""
    store = classified_run(
        tmp_path / "run", photos, columns=[[324, 372]], classes=classes, backbone="hog", features="hog+color"
    )
    export_predictor(store, "sklearn", str(tmp_path / "out"), Progress())
    table = store.storage.read_table("features/status=ok/part-000000.parquet")
    for row, values in enumerate(table["features"].to_pylist()):
        np.save(tmp_path / f"{row}.npy", np.array([values], np.float16))
    lines = answers(tmp_path / "out", "features.npy", [tmp_path / f"{row}.npy" for row in range(len(table))])
    _, labels, confidences = predictions(store)
    names, probabilities = split(lines)
    assert names == [f"class-{label:03d}" for label in labels]
    np.testing.assert_allclose(probabilities, confidences, rtol=0, atol=1e-6)
    assert len(set(names)) > 1
    with np.load(tmp_path / "out" / "classifier.npz", allow_pickle=False) as parameters:
        assert parameters["coef"].shape == (classes if classes > 2 else 1, 372)


def test_the_card_says_what_the_run_says(hog, export):
    text = (export(hog, "sklearn") / "README.md").read_text()
    assert "6 images of" in text
    assert "| 1 | dog \\| \U0001f436 |" in text
    assert "- the loss of head 1 is not finite" in text
    assert "Not scored by true labels" in text
    hog.record("evaluation", {"consensus": {"acc": 0.5, "nmi": 0.25, "ari": 0.125, "images": 6}})
    export_predictor(hog, "sklearn", str(Path(hog.root).parent / "scored"), Progress())
    assert (
        "| consensus (hbgf) | 50.00 | 25.00 | 12.50 | 6 |" in (Path(hog.root).parent / "scored/README.md").read_text()
    )


@pytest.mark.parametrize("layout", [{"features": [0, 8]}, {"hog.features": [0, 3], "effnet.features": [3, 8]}])
def test_a_run_of_features_leaves_its_head(tmp_path, layout):
    store = Store(str(tmp_path / "run"))
    settings = load({"source": "features.npy", "clusters": CLASSES, "out": store.root})
    store.claim(settings)
    matrix = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    table = features(range(5), matrix)
    counts = {"images": 5, "ok": 5, "dim": 8, "block_dim": 0, "layout": layout}
    commit(store, "embed", [FEATURES.write(store.storage, table, 0)], counts)
    finish(store, matrix, None, [[0, 8]], CLASSES, settings)
    export_predictor(store, "torchscript", str(tmp_path / "out"), Progress())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "head.pt", "labels.json"]
    with quiet():
        found = torch.jit.load(tmp_path / "out" / "head.pt")(torch.from_numpy(matrix.astype(np.float32)))
    np.testing.assert_allclose(found.max(1).values, predictions(store)[2], rtol=0, atol=1e-6)
    with fails(RunError, "a source of features", "--format onnx"):
        export_predictor(store, "huggingface", str(tmp_path / "hf"), Progress())


def test_what_cannot_be_exported_is_said(hog, photos, tmp_path, monkeypatch):
    with fails(RunError, "the backbone hog", "--format onnx"):
        export_predictor(hog, "huggingface", str(tmp_path / "out"), Progress())
    with fails(RunError, "is the output of `icce predict`", "give the run"):
        export_predictor(predicted(tmp_path / "predicted"), "onnx", str(tmp_path / "out"), Progress())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with fails(RunError, "onnxruntime", "pip install 'icce-ray[export]'"):
        export_predictor(hog, "onnx", str(tmp_path / "out"), Progress())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predicted"]
