"""MLflow and Weights & Biases themselves, on disk: what they are given is there, once."""

import json
import os
import struct
from datetime import UTC, datetime

import pytest

from icce_ray.io.storage import Storage
from icce_ray.trackers import make_tracker, not_sent
from icce_ray.tracking import Event, EventLog, TrackingError
from tests.failures import fails


def tracking(folder, name, **options):
    storage = Storage(str(folder / "run"))
    trackers = {name: make_tracker(name, storage=storage, folder="tensorboard", experiment="digits")}
    params = {"heads.heads": 5} | {f"made.{index}": index for index in range(120)}
    return EventLog(storage, "metrics.jsonl", trackers, name="a run", params=params, **options)


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """Its client, on a folder of files."""
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def runs_of(client):
    return client.search_runs([client.get_experiment_by_name("digits").experiment_id])


def history(client, run, key):
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, key)]


def fails_after(tracked):
    tracked.add("heads", "step", 1200, {"mean_loss": -1200.0})
    tracked.add("consensus", "summary", 0, {"anmi": 0.5})
    raise KeyError("a fault of the run")


def test_mlflow_has_every_figure_once_also_of_a_run_that_was_killed(tmp_path, mlflow):
    with tracking(tmp_path, "mlflow") as tracked:
        for step in range(1, 1200):
            tracked.add("heads", "step", step, {"mean_loss": -float(step), "worst_loss": None})
    (run,) = runs_of(mlflow)
    assert run.info.run_name == "a run"
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 121
    assert run.data.params["heads.heads"] == "5"
    lines = (tmp_path / "run/metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run/metrics.jsonl").write_bytes(b"".join(lines[:-2]))  # MLflow had more than the file
    with pytest.raises(KeyError), tracking(tmp_path, "mlflow") as tracked:
        fails_after(tracked)
    (run,) = runs_of(mlflow)
    assert run.info.status == "FAILED"
    assert history(mlflow, run, "heads/mean_loss") == [(step, -float(step)) for step in range(1, 1201)]
    assert run.data.metrics["consensus/summary/anmi"] == 0.5
    assert "heads/worst_loss" not in run.data.metrics


def test_mlflow_is_sent_what_it_missed(tmp_path, mlflow):
    with EventLog(Storage(str(tmp_path / "run")), "metrics.jsonl", {}, name="a run", params={}) as tracked:
        tracked.add("heads", "step", 1, {"mean_loss": 1.0})
    with tracking(tmp_path, "mlflow") as tracked:
        tracked.add("heads", "step", 2, {"mean_loss": 2.0})
    (run,) = runs_of(mlflow)
    assert history(mlflow, run, "heads/mean_loss") == [(1, 1.0), (2, 2.0)]


def test_a_repeated_stage_is_a_new_mlflow_run(tmp_path, mlflow):
    for value in (1.0, 2.0):
        with tracking(tmp_path, "mlflow", forget=["heads"]) as tracked:
            tracked.add("heads", "step", 1, {"mean_loss": value})
    assert sorted(history(mlflow, run, "heads/mean_loss")[0] for run in runs_of(mlflow)) == [(1, 1.0), (1, 2.0)]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://somebody:geheim@127.0.0.1:9"])
def test_a_server_that_is_not_there_is_named_before_any_work(tmp_path, mlflow, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with fails(TrackingError, "http://127.0.0.1:9", "MLFLOW_TRACKING_URI") as error:
        tracking(tmp_path, "mlflow").__enter__()
    assert "geheim" not in str(error.value)
    assert not (tmp_path / "run").exists()


# -- Weights & Biases --------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """Without a server or a key."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    wandb.teardown()
    yield wandb
    wandb.teardown()


def records(data):
    """Those of a .wandb file: LevelDB's log of blocks of 32 KiB, a record in one piece or several."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:
            place += left
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def logged(folder):
    """What was logged, in order, as `wandb sync` would send it."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    histories = [Record.FromString(data).history.item for data in records(path.read_bytes())]
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        for items in histories
        if items
    ]


def test_weights_and_biases_has_every_figure_on_the_axis_of_its_stage(tmp_path, wandb):
    with tracking(tmp_path, "wandb") as tracked:
        for step in (1, 2):
            tracked.add("heads", "step", step, {"mean_loss": -float(step), "worst_loss": None})
        tracked.add("consensus", "summary", 0, {"anmi": 0.5})
    wandb.teardown()  # else its process may still be writing
    found = [{name: value for name, value in one.items() if not name.startswith("_")} for one in logged(tmp_path)]
    assert found == [
        {"heads/step": 1, "heads/mean_loss": -1.0},
        {"heads/step": 2, "heads/mean_loss": -2.0},
        {"consensus/summary/step": 0, "consensus/summary/anmi": 0.5},
    ]


def test_without_a_key_it_says_what_to_do_and_asks_nobody(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    with fails(TrackingError, "`wandb login`", "WANDB_API_KEY", "WANDB_MODE=offline"):
        tracking(tmp_path, "wandb").__enter__()


def test_only_what_it_was_not_given():
    def line(event, step, to=()):
        return Event(time=datetime.now(UTC), stage="heads", event=event, step=step, figures={}, to=to)

    lines = [line("begin", 0), line("step", 1), line("begin", 1, ("wandb",)), line("step", 2), line("begin", 2)]
    assert [one.step for one in not_sent([*lines, line("step", 3)], "wandb")] == [1, 3]
