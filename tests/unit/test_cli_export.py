"""`icce export` as a command: the table, and errors as one message."""

import functools

import pyarrow as pa
import pytest

from icce_ray.store import Store
from icce_ray.store.artifacts import PREDICTIONS
from tests.exported_runs import classified_run
from tests.forms import write
from tests.labelled_runs import labelled, run_of
from tests.pictures import encode, scene

PNG = encode(scene(), "PNG")


@pytest.fixture
def export(icce):
    return functools.partial(icce, "export")


def test_a_run_becomes_a_table(export, tmp_path):
    store, out = Store(str(tmp_path / "run")), tmp_path / "out.csv"
    table = {"image_id": [0], "uri": ["a.png"], "key": ["a.png"], "label": [1], "confidence": [0.5]}
    file = store.storage.write_table(PREDICTIONS.part(0), pa.table(table))
    store.commit("predict", [file], fingerprint="x", summary={"class_sizes": [0, 1]}, seconds=0)
    assert export(store.root, "--out", out)[:2] == (0, f"1 images: {out}\n")
    assert out.read_text() == '"uri","key","label","confidence"\n"a.png","a.png",1,0.5\n'
    assert export(store.root, "--out", out)[0] == 1


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--format", "xml"], 2, "give one of csv, parquet, imagefolder, fiftyone, webdataset"),
        (["--format", "webdatset"], 2, "did you mean webdataset?"),
        (["--shard-mb", "5"], 2, "--shard-mb goes with --format webdataset"),
        (["--format", "onnx", "--link"], 2, "--link goes with --format imagefolder or fiftyone"),
        (["--format", "onnx"], 1, "stage classifier of"),
        ([], 1, "stage predict of"),
    ],
)
def test_an_error_is_one_message(export, tmp_path, options, status, says):
    found, shown, message = export(tmp_path / "run", "--out", tmp_path / "out", "--quiet", *options)
    assert (found, shown) == (status, "")
    assert message.startswith("error: ")
    assert says in message
    assert not list(tmp_path.iterdir())


def test_a_classifier_becomes_a_folder(export, tmp_path):
    write("files", [("a.png", PNG), ("b.png", encode(scene(9, 20), "PNG"))], tmp_path / "photos")
    run = classified_run(tmp_path / "run", tmp_path / "photos", backbone="hog", features="hog")
    out = tmp_path / "out"
    status, shown, _ = export(run.root, "--format", "sklearn", "--out", out)
    assert (status, shown) == (0, f"classifier of 4 classes: {out}\n")
    assert {path.name for path in out.iterdir()} == {"README.md", "classifier.npz", "labels.json", "predictor.py"}


def test_images_that_are_gone_are_an_exit_status(export, tmp_path):
    write("files", [("a.png", PNG), ("b.png", PNG)], tmp_path / "photos")
    run = labelled(run_of(tmp_path / "run", str(tmp_path / "photos")), [1, 0], classes=2)
    options = [run.root, "--format", "webdataset", "--shard-mb", "1", "--quiet", "--out"]
    assert export(*options, tmp_path / "all") == (0, "", "")
    (tmp_path / "photos" / "b.png").unlink()
    status, shown, message = export(*options, tmp_path / "out")
    assert (status, shown) == (3, "")
    left_out = "left out: 1 images that cannot be read any more (1 unreadable); "
    assert message == f"{left_out}{tmp_path}/out/unreadable.csv names them\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shard-000000.tar", "unreadable.csv"]


def test_help_fits_a_screen_with_an_example(export):
    status, shown, _ = export("--help")
    assert status == 0
    assert "Example: icce export runs/photos" in shown
    assert len(shown.splitlines()) <= 40
