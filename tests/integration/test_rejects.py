"""Twenty good images and five that are none: the five are named, the exit status shows it, every stage completes."""

import shutil
import sys
from hashlib import blake2b

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray import commands, pipeline
from icce_ray.cli import main as cli
from icce_ray.store import RejectBudgetError, Store
from icce_ray.store.artifacts import FEATURES
from icce_ray.store.verify import violations
from tests.hostile import MAX_PIXELS, contents

from .conftest import tiny, write_digits

#: By the names of `tests/hostile.py`; the last shard holds nothing but a reject.
BAD = {
    "all-clear.png": "zero_feature",
    "bomb-inflates.png": "too_many_pixels",
    "cut-10.jpg": "truncated",
    "nothing.png": "empty",
    "text.jpg": "not_an_image",
}
FEW = {
    "clusters": 3,
    "neighbors": {"k_min": 3},
    "embed": {"rows_per_shard": 6, "max_pixels": MAX_PIXELS},
    "heads": {"batch_size": 20},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_digits(folder, 20)
    for name in BAD:
        (folder / name).write_bytes(contents()[name].data)
    return folder


@pytest.fixture(scope="module")
def rejected(source, tmp_path_factory):
    """(the run up to its features, the error that ended it)."""
    settings = tiny(source, tmp_path_factory.mktemp("rejected") / "run", **FEW)
    with pytest.raises(RejectBudgetError) as error:
        pipeline.run(settings, last="embed", verbose=False)
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


def test_the_five_are_named_with_reasons(rejected, source):
    store, message = rejected
    assert "5 of 25 inputs (20.0%) were rejected, the budget is 5.0%" in message
    assert "--set embed.reject_budget=" in message
    summary = store.metrics()["embed"]
    assert (summary["images"], summary["ok"], summary["rejected"]) == (25, 20, 5)
    assert summary["rejected_by_reason"] == dict.fromkeys(BAD.values(), 1)
    assert {row["uri"]: row["reason"] for row in summary["first_rejects"]} == BAD
    assert all(row["detail"] for row in summary["first_rejects"])
    paths = [info.path for info in store.require("embed").files if "status=reject" in info.path]
    on_disk = [row for path in paths for row in pq.ParquetFile(f"{store.root}/{path}").read().to_pylist()]
    assert {row["uri"]: row["reason"] for row in on_disk} == BAD
    shards = FEATURES.files(store.require("embed").files)
    assert [info.rows for info in shards] == [6, 6, 6, 2, 0]
    measured = [store.storage.read_table(info.path) for info in shards]
    assert measured[0].schema.equals(measured[-1].schema)
    for row in pa.concat_tables(measured).select(["key", "digest", "width", "contrast"]).to_pylist():
        assert row["digest"] == blake2b((source / row["key"]).read_bytes(), digest_size=16).digest()
        assert (row["width"], row["contrast"] > 0.5) == (8, True)
    assert list(violations(store)) == []


def test_exit_status_3_and_0_within_the_budget_without_new_work(rejected, source, monkeypatch, capsys):
    store, message = rejected

    def forbidden(*_):
        raise AssertionError("work was started")

    for stage in pipeline.STAGES:
        monkeypatch.setitem(pipeline.STAGES, stage, forbidden)
    assert icce(store, source, "--until", "embed") == 3
    out, err = capsys.readouterr()
    assert all(f"{name}: {reason}: " in out for name, reason in BAD.items())
    assert f"error: {message}" in err
    assert icce(store, source, "--until", "embed", "--set", "embed.reject_budget=0.25") == 0
    assert "5 of 25 inputs were rejected" in capsys.readouterr().out


@pytest.mark.slow(25)
def test_every_stage_is_complete_for_the_others_and_predicting_rejects_the_same_five(rejected, source, tmp_path):
    store = Store(str(shutil.copytree(rejected[0].root, tmp_path / "run")))
    with pytest.raises(RejectBudgetError):
        pipeline.run(tiny(source, store.root, **FEW), verbose=False)
    assert all(store.marker(stage) is not None for stage in pipeline.STAGES)
    assert store.metrics()["predict"]["labelled"] == 20
    assert list(violations(store)) == []
    with pytest.raises(RejectBudgetError):  # the budget is the run's
        commands.predict(store.root, str(source), str(tmp_path / "out"), verbose=False)
    summary = Store(str(tmp_path / "out")).require("predict").summary
    assert summary["rejected_by_reason"] == dict.fromkeys(BAD.values(), 1)
    assert summary["labelled"] == 20
