"""Twenty good images and five that are none: every stage completes, the five are named, and the exit status tells."""

import struct
import sys
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from icce_ray import pipeline
from icce_ray.cli import main as cli
from icce_ray.stages.verify import violations
from icce_ray.store import Store

from .conftest import tiny, write_digits

BAD = {
    "a-truncated.jpg": "truncated",
    "b-text.png": "not_an_image",
    "c-empty.png": "empty",
    "d-bomb.png": "too_many_pixels",
    "e-black.png": "zero_feature",
}
FEW = {
    "clusters": 3,
    "neighbors": {"k_min": 3},
    "embed": {"rows_per_shard": 6, "max_pixels": 1_000_000},  # the last shard holds nothing but the black image
    "heads": {"batch_size": 20},
}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side):
    """A PNG of a hundred bytes whose header announces side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def write_bad(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg", quality=95)
    (folder / "a-truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    (folder / "whole.jpg").unlink()
    (folder / "b-text.png").write_text("<html>404: there is no image here</html>" * 10)
    (folder / "c-empty.png").touch()
    (folder / "d-bomb.png").write_bytes(bomb(1001))
    Image.new("L", (8, 8)).save(folder / "e-black.png")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_digits(folder, 20)
    write_bad(folder)
    return folder


@pytest.fixture(scope="module")
def rejected(source, tmp_path_factory):
    """(the run, the error that ended it)."""
    settings = tiny(source, tmp_path_factory.mktemp("rejected") / "run", **FEW)
    with pytest.raises(pipeline.RejectBudgetError) as error:
        pipeline.run(settings, verbose=False)
    return Store(settings.out), str(error.value)


def icce(store, source, *options):
    """Exit status of `icce run` with the run's own settings and further options."""
    settings = store.settings().model_dump(mode="json", exclude={"source", "out", "clusters", "seed"})
    command = ["icce", "run", str(source), "--out", store.root, "--clusters", "3", *options]
    for stage, fields in settings.items():
        for name, value in fields.items():
            if value is not None and name != "reject_budget":
                command += ["--set", f"{stage}.{name}={value}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as status:
            cli.main()
    return status.value.code


def test_the_five_are_named_with_reasons_and_all_stages_are_complete(rejected):
    store, message = rejected
    assert "5 of 25 inputs (20.0%) were rejected, the budget is 5.0%" in message
    assert "--set embed.reject_budget=" in message
    assert all(store.marker(stage) is not None for stage in pipeline.STAGES)
    summary = store.metrics()["embed"]
    assert (summary["images"], summary["ok"], summary["rejected"]) == (25, 20, 5)
    assert summary["rejected_by_reason"] == dict.fromkeys(BAD.values(), 1)
    assert {row["uri"]: row["reason"] for row in summary["first_rejects"]} == BAD
    assert all(row["detail"] for row in summary["first_rejects"])
    paths = [info.path for info in store.require("embed").files if "status=reject" in info.path]
    on_disk = [row for path in paths for row in pq.ParquetFile(f"{store.root}/{path}").read().to_pylist()]
    assert {row["uri"]: row["reason"] for row in on_disk} == BAD
    assert store.metrics()["predict"]["labelled"] == 20
    assert [info.rows for info in store.require("embed").rows_of("features/status=ok")] == [6, 6, 6, 2, 0]
    assert list(violations(store)) == []


def test_exit_status_3_and_0_within_the_budget_without_new_work(rejected, source, monkeypatch, capsys):
    store, message = rejected

    def forbidden(*_):
        raise AssertionError("work was started")

    for stage in pipeline.STAGES:
        monkeypatch.setitem(pipeline.STAGES, stage, forbidden)
    assert icce(store, source) == 3
    out, err = capsys.readouterr()
    assert all(f"{name}: {reason}: " in out for name, reason in BAD.items())
    assert f"error: {message}" in err
    assert icce(store, source, "--set", "embed.reject_budget=0.25") == 0
    assert "5 of 25 inputs were rejected" in capsys.readouterr().out


def test_predicting_them_rejects_the_same_five(rejected, source, tmp_path):
    store, _ = rejected
    out = Store(str(tmp_path / "out"))
    summary = pipeline.predict_source(store.root, str(source), out.root, verbose=False)
    assert summary["rejected_by_reason"] == dict.fromkeys(BAD.values(), 1)
    assert summary["labelled"] == 20
