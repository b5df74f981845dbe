"""The column `superclass` of exported tables."""

import json

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from icce_ray.export.formats import export_predictions
from icce_ray.export.superclasses import superclasses
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store, UsageError
from icce_ray.store.artifacts import HIERARCHY, PREDICTIONS

#: Classes 0 and 3 are joined first, then 1 with them; class 2 has no images.
TREE = {"merges": [[0, 3, 0.1], [4, 1, 0.9]], "nearest": [[]] * 4, "agreement": [1.0, 1.0, None, 1.0]}
TREE |= {"pairs": [[1.0]], "compared": 4}


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "run"))
    table = {"image_id": range(4), "uri": list("abcd"), "key": list("abcd"), "label": [3, 1, 0, 1]}
    table["confidence"] = pa.array([0.5] * 4, pa.float32())
    files = [store.storage.write_table(PREDICTIONS.part(0), pa.table(table))]
    store.commit("predict", files, fingerprint="x", summary={"class_sizes": [1, 2, 0, 1]}, seconds=0)
    return store


@pytest.fixture
def inspected(store):
    store.storage.write_bytes(HIERARCHY.path, json.dumps(TREE).encode())
    store.commit("inspect", [store.storage.describe(HIERARCHY.path)], fingerprint="x", summary={}, seconds=0)
    return store


@pytest.mark.parametrize(("form", "read"), [("csv", pa_csv.read_csv), ("parquet", pq.read_table)])
def test_the_tree_cut_is_a_column(inspected, tmp_path, form, read):
    out = tmp_path / "table"
    export_predictions(inspected, form, str(out), Progress(), superclasses=2)
    found = read(out)
    assert found.column_names == ["uri", "key", "label", "confidence", "superclass"]
    assert found["superclass"].to_pylist() == [0, 1, 0, 1]


def test_a_prediction_has_the_tree_of_its_run(inspected, tmp_path):
    prediction = Store(str(tmp_path / "predicted"))
    prediction.claim_prediction({"run": inspected.root, "classifier": "c" * 16, "source": "photos"})
    assert superclasses(prediction, 4, 2).tolist() == [0, 1, -1, 0]


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_that_the_tree_does_not_have(inspected, tmp_path, count):
    with pytest.raises(UsageError, match=f"--superclasses {count}: .*the tree of 3 classes gives 1 to 3"):
        export_predictions(inspected, "csv", str(tmp_path / "table"), Progress(), superclasses=count)
    assert not (tmp_path / "table").exists()


def test_forms_without_the_column_and_runs_without_a_tree(store, tmp_path):
    with pytest.raises(UsageError, match="--superclasses adds a column to csv or parquet, not to fiftyone"):
        export_predictions(store, "fiftyone", str(tmp_path / "out"), Progress(), superclasses=2)
    with pytest.raises(RunError, match=r"inspection/hierarchy\.json.* again"):
        export_predictions(store, "csv", str(tmp_path / "out"), Progress(), superclasses=2)
