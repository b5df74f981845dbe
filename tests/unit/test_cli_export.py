"""`icce export` as a command: the table, and errors as one message."""

import sys

import pyarrow as pa
import pytest

from icce_ray.cli.main import main
from icce_ray.store import Store


@pytest.fixture
def icce(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["icce", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return call


def test_a_run_becomes_a_table(icce, tmp_path):
    store, out = Store(str(tmp_path / "run")), tmp_path / "out.csv"
    table = {"image_id": [0], "uri": ["a.png"], "key": ["a.png"], "label": [1], "confidence": [0.5]}
    file = store.storage.write_table(Store.part("predictions", 0), pa.table(table))
    store.commit("predict", [file], fingerprint="x", summary={"class_sizes": [0, 1]}, seconds=0)
    assert icce(store.root, "--out", out)[:2] == (0, f"1 images: {out}\n")
    assert out.read_text() == '"uri","key","label","confidence"\n"a.png","a.png",1,0.5\n'
    assert icce(store.root, "--out", out)[0] == 1


@pytest.mark.parametrize(
    ("options", "says"), [(["--format", "xml"], "give one of csv, parquet"), ([], "stage predict of")]
)
def test_an_error_is_one_message(icce, tmp_path, options, says):
    status, shown, message = icce(tmp_path / "run", "--out", tmp_path / "out", "--quiet", *options)
    assert (status, shown) == (1, "")
    assert message.startswith("error: ")
    assert says in message
    assert not list(tmp_path.iterdir())
