"""What was found about images, as tables by key."""

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from icce_ray.export.findings import export_findings
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store, UsageError
from icce_ray.store.artifacts import QUALITY


def rows(first, keys):
    """Flagged images as the stage writes them."""
    table = {"image_id": pa.array(range(first, first + len(keys)), pa.int64()), "uri": pa.array(keys, pa.string())}
    table |= {"key": table["uri"], "problem": pa.array(["dark"] * len(keys), pa.string())}
    return pa.table(table | {"value": pa.array([0.5] * len(keys), pa.float32())})


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "run"))
    shards = [rows(0, ["a.png", "=1+1.png"]), rows(2, []), rows(4, ["c.png"])]
    files = [QUALITY.write(store.storage, table, part) for part, table in enumerate(shards)]
    store.commit("inspect", files, fingerprint="x", summary={}, seconds=0)
    return store


@pytest.mark.parametrize(
    ("name", "read", "second"), [("t.csv", pa_csv.read_csv, "'=1+1.png"), ("T.Parquet", pq.read_table, "=1+1.png")]
)
def test_findings_of_all_shards_are_one_table_that_no_spreadsheet_runs(store, tmp_path, name, read, second):
    assert export_findings(store, "quality", str(tmp_path / name), Progress()) == 3
    found = read(tmp_path / name)
    assert found.column_names == ["uri", "key", "problem", "value"]
    assert found["key"].to_pylist() == ["a.png", second, "c.png"]


def test_a_run_without_findings_says_what_makes_them(store, tmp_path):
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        export_findings(store, "quality", str(tmp_path / "table"), Progress())
    for files in ((), None):
        store.storage.delete("inspection/_manifest.json")
        if files is not None:
            store.commit("inspect", files, fingerprint="x", summary={}, seconds=0)
        with pytest.raises(RunError, match=r"inspection/quality: .*--redo embed"):
            export_findings(store, "quality", str(tmp_path / "new.csv"), Progress())
