"""A run that an earlier version wrote, kept under tests/data, is read, checked and continued by today's commands."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

OLD = Path(__file__).parents[1] / "data" / "run_of_0.1.0"
AGAIN = ("run", "photos", "--out", "run", "--config", "settings.yaml")


@pytest.fixture
def old(cluster, monkeypatch):
    """A copy where Ray's workers stand, as its settings name their folders `photos` and `run`."""
    monkeypatch.chdir(cluster)
    shutil.copytree(OLD, cluster, dirs_exist_ok=True)
    yield cluster
    for path in OLD.iterdir():
        copied = cluster / path.name
        shutil.rmtree(copied) if copied.is_dir() else copied.unlink()


def labels(stage):
    """{image_id: label} of a stage of the run."""
    return {
        row["image_id"]: row["label"]
        for path in Path("run", stage).glob("part-*.parquet")
        for row in pq.ParquetFile(path).read(["image_id", "label"]).to_pylist()
    }


def test_an_old_run_is_read_and_checked(old, icce):
    before = {path: path.read_bytes() for path in Path("run").rglob("*part-*")}
    for command in (["verify", "run"], ["verify", "predicted"], ["status", "run"], AGAIN, ["verify", "run"]):
        status, text, error = icce(*command)
        assert status == 0, text + error
    assert before == {path: path.read_bytes() for path in before}
    assert Path("run/report/index.html").stat().st_size > 100_000, "run made what was missing"
    status, _, error = icce("sweep", "run", "--param", "neighbors.threshold=0.5,0.7", "--name", "thresholds")
    assert (status, "mined before" in error, "trial 1 of 2" in error) == (0, True, False), error


def test_an_old_run_goes_on(old, icce):
    before = labels("consensus")
    status, text, error = icce(*AGAIN, "--redo", "consensus")
    assert status == 0, text + error
    assert labels("consensus") == before
    assert labels("predictions").keys() == before.keys()
    status, text, error = icce("verify", "run")
    assert status == 0, text + error
