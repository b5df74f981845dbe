"""Predictions as one table, and names of clusters."""

import csv

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from icce_ray.export.formats import export_predictions
from icce_ray.io.locations import StorageError
from icce_ray.io.user_tables import read_user_table, without_formulas
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import PREDICTIONS
from tests.failures import fails

KEYS = ["<script>.png", 'a "quoted", name.png', "\U0001f600.png", "d.png"]


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "run"))
    files = []
    for part in range(2):
        keys = KEYS[2 * part : 2 * part + 2]
        table = {"image_id": [2 * part, 2 * part + 1], "uri": keys, "key": keys, "label": [0, 1 + part]}
        table["confidence"] = pa.array([0.5, 0.25], pa.float32())
        files.append(store.storage.write_table(PREDICTIONS.part(part), pa.table(table)))
    store.commit("predict", files, fingerprint="x", summary={"class_sizes": [2, 1, 1]}, seconds=0)
    return store


@pytest.mark.parametrize(("form", "read"), [("csv", pa_csv.read_csv), ("parquet", pq.read_table)])
def test_every_row_is_there_once_and_as_it_was(store, tmp_path, form, read):
    (tmp_path / "names.csv").write_text('label,name\n0,"cats, dogs"\n2,<b>\n')
    out = tmp_path / "new" / "table"
    done = export_predictions(store, form, str(out), Progress(), names=str(tmp_path / "names.csv"))
    assert (done.images, done.unreadable.total()) == (4, 0)
    found = read(out)
    assert found.column_names == ["uri", "key", "label", "confidence", "name"]
    assert found["key"].to_pylist() == KEYS
    assert found["label"].to_pylist() == [0, 1, 0, 2]
    assert found["confidence"].to_pylist() == [0.5, 0.25, 0.5, 0.25]
    assert [name or None for name in found["name"].to_pylist()] == ["cats, dogs", None, "cats, dogs", "<b>"]
    assert [path.name for path in out.parent.iterdir()] == ["table"]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (b"label,title\n0,cat\n", ["'label', 'title'", "label, name"]),
        (b"label,name\n3,cat\n", ["row 1", "'3'", "0 to 2"]),
        (b"label,name\ncat,cat\n", ["row 1", "'cat'", "0 to 2"]),
        (b"label,name\n0,cat\n" + b"9" * 5000 + b",dog\n", ["row 2", "(5,002 characters)", "0 to 2"]),
        (b"label,name\n0,cat\n0,dog\n", ["row 2", "label 0", "twice"]),
        (b"label,name,name\n0,cat,dog\n", ["2 columns name"]),
        (b"label,name\n0,\xff\n", ["UTF-8"]),
    ],
)
def test_names_that_cannot_be(store, tmp_path, text, facts):
    names = tmp_path / "names.csv"
    names.write_bytes(text)
    with fails((RunError, StorageError), f"--names {names}", *facts):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Progress(), names=str(names))
    assert not (tmp_path / "out.csv").exists()


FORMULAS = ["+1+1.png", "=cmd|' /C calc'!A0.png", "-2", "@sum", "\t=x", "\r=x", "＝x", "'=x", "''@", "'quoted'", "a=b"]


def test_no_text_of_a_csv_is_a_formula_and_all_can_be_had_back(tmp_path):
    store = Store(str(tmp_path / "run"))
    table = {"image_id": range(len(FORMULAS)), "uri": FORMULAS, "key": FORMULAS, "label": [0] * len(FORMULAS)}
    table["confidence"] = pa.array([0.5] * len(FORMULAS), pa.float32())
    info = store.storage.write_table(PREDICTIONS.part(0), pa.table(table))
    store.commit("predict", [info], fingerprint="x", summary={"class_sizes": [len(FORMULAS)]}, seconds=0)
    names, out = tmp_path / "names.csv", tmp_path / "out.csv"
    names.write_text("label,name\n0,=1+1\n")
    export_predictions(store, "csv", str(out), Progress(), names=str(names))
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["uri"] for row in rows] == [text if text in ("'quoted'", "a=b") else f"'{text}" for text in FORMULAS]
    assert {row["name"] for row in rows} == {"'=1+1"}
    assert [without_formulas(text) for text in FORMULAS] == [row["key"] for row in rows]
    read = read_user_table("labels =", str(out), ["uri", "name"])
    assert read["uri"].to_pylist() == FORMULAS
    assert set(read["name"].to_pylist()) == {"=1+1"}


def test_what_is_there_is_not_overwritten(store, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with fails(RunError, tmp_path / "out.csv", "new name or remove"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Progress())
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
    with fails(RunError, "predict", store.root, "not complete", f"`{command}`"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Progress())


def test_a_run_without_any_labelled_image(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.commit("predict", [], fingerprint="x", summary={"class_sizes": [0, 0]}, seconds=0)
    with fails(RunError, store.root, "no predictions", "rejected"):
        export_predictions(store, "csv", str(tmp_path / "out.csv"), Progress())
