"""jobs/examples, each really run: on the cluster that is there, against the bucket of a test server."""

import re
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from icce_ray.store import Store
from icce_ray.store.verify import violations

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "jobs/examples").glob("*.py"))


def run_example(name, *arguments):
    """What its `main` gives; it must have one, and do nothing without it."""
    return runpy.run_path(str(ROOT / f"jobs/examples/{name}.py"))["main"](*map(str, arguments))


def test_every_example_is_run():
    """`cluster` is submitted in test_jobs.py, which has a job server."""
    assert EXAMPLES == ["cluster", "features", "laptop_folder", "s3_bucket"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_says_how_to_call_it(name):
    text = (ROOT / f"jobs/examples/{name}.py").read_text()
    assert len(text.splitlines()) <= 70
    assert f"python jobs/examples/{name}.py" in text.split('"""')[1]


@pytest.mark.slow(20)
def test_a_folder_on_a_laptop(tmp_path, capsys):
    run_example("laptop_folder", tmp_path)
    assert list(violations(Store(str(tmp_path / "run")))) == []
    new = pq.read_table(tmp_path / "run-new/predictions")
    assert sorted(new["uri"].to_pylist()) == [f"{index:04d}.png" for index in range(500, 600)]
    said = capsys.readouterr().out
    assert "run: 500 images" in said
    assert "run-new: 100 images" in said


@pytest.mark.slow(20)
def test_a_bucket(moto, monkeypatch, capsys):
    name = moto.bucket()
    monkeypatch.setenv("S3_ENDPOINT", moto.endpoint)
    run_example("s3_bucket", f"s3://{name}/example")
    assert list(violations(Store(moto.uri(f"{name}/example/run")))) == []
    sizes = re.search(r"300 images, images in each class: \[(.*)\]", capsys.readouterr().out)[1]
    assert sum(map(int, sizes.split(","))) == 300


@pytest.mark.slow(20)
def test_a_feature_matrix(capsys):
    run_example("features")
    seen, others = re.findall(r"\[([\d, ]+)\]", capsys.readouterr().out)
    assert sum(map(int, seen.split(","))) == 1000
    assert sum(map(int, others.split(","))) == 797
