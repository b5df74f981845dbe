"""Predictions as one table, and names of clusters."""

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from icce_ray.adapters.progress import Silent
from icce_ray.export.formats import export_predictions
from icce_ray.store import RunError, Store

KEYS = ["<script>.png", 'a "quoted", name.png', "\U0001f600.png", "d.png"]


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "run"))
    files = []
    for part in range(2):
        keys = KEYS[2 * part : 2 * part + 2]
        table = {"image_id": [2 * part, 2 * part + 1], "uri": keys, "key": keys, "label": [0, 1 + part]}
        table["confidence"] = pa.array([0.5, 0.25], pa.float32())
        files.append(store.storage.write_table(Store.part("predictions", part), pa.table(table)))
    store.commit("predict", files, fingerprint="x", summary={"class_sizes": [2, 1, 1]}, seconds=0)
    return store


@pytest.mark.parametrize(("form", "read"), [("csv", pa_csv.read_csv), ("parquet", pq.read_table)])
def test_every_row_is_there_once_and_as_it_was(store, tmp_path, form, read):
    (tmp_path / "names.csv").write_text('label,name\n0,"cats, dogs"\n2,<b>\n')
    out = tmp_path / "new" / "table"
    done = export_predictions(store, form, str(out), Silent(), names=str(tmp_path / "names.csv"))
    assert (done.images, done.unreadable.total()) == (4, 0)
    found = read(out)
    assert found.column_names == ["uri", "key", "label", "confidence", "name"]
    assert found["key"].to_pylist() == KEYS
    assert found["label"].to_pylist() == [0, 1, 0, 2]
    assert found["confidence"].to_pylist() == [0.5, 0.25, 0.5, 0.25]
    assert [name or None for name in found["name"].to_pylist()] == ["cats, dogs", None, "cats, dogs", "<b>"]
    assert [path.name for path in out.parent.iterdir()] == ["table"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label,title\n0,cat\n", "needs label and name"),
        ("label,name\n3,cat\n", "line 2: label = '3'; give one from 0 to 2"),
        ("label,name\ncat,cat\n", "label = 'cat'"),
        ("label,name\n0,cat\n0,dog\n", "line 3: label 0 is there twice"),
    ],
)
def test_names_that_cannot_be(store, tmp_path, text, says):
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(RunError, match=says):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Silent(), names=str(tmp_path / "names.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_what_is_there_is_not_overwritten(store, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Silent())
    assert (tmp_path / "out.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("claim", "command"),
    [
        (lambda store: None, "icce run"),
        (lambda store: store.claim_prediction({"run": "run", "classifier": "c", "source": "new"}), "icce predict"),
    ],
)
def test_a_run_or_a_prediction_that_is_not_finished(tmp_path, claim, command):
    store = Store(str(tmp_path / "run"))
    claim(store)
    with pytest.raises(RunError, match=rf"stage predict of .* is not complete: .* run the same `{command}` command"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Silent())


def test_a_run_without_any_labelled_image(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.commit("predict", [], fingerprint="x", summary={"class_sizes": [0, 0]}, seconds=0)
    with pytest.raises(RunError, match="has no predictions to export: every input was rejected"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Silent())
