"""What is tracked of a real run: every epoch and every figure, once, and nothing that is out of date."""

from pathlib import Path

import numpy as np
import pytest

from icce_ray import pipeline, trackers
from icce_ray.progress import RunProgress
from icce_ray.settings import SettingsError
from icce_ray.stages.tracking import tracked
from icce_ray.store import RunError
from icce_ray.store.artifacts import STAGES
from icce_ray.store.verify import violations
from icce_ray.tracking import read_events, scalars
from tests.failures import fails
from tests.tensorboard_events import curves

from .conftest import TINY, tiny

EPOCHS = range(1, TINY["heads"]["epochs"] + 1)


def lines_of(store):
    return read_events(store.storage, "metrics.jsonl")


def steps_of(store, stage):
    """{step: figures} of a stage, of which no step may be there twice."""
    lines = [line for line in lines_of(store) if (line.stage, line.event) == (stage, "step")]
    assert len({line.step for line in lines}) == len(lines)
    return {line.step: line.figures for line in lines}


def losses_of(store):
    """TEMI losses [epochs, heads]."""
    table = store.storage.read_table("heads/losses.parquet")
    return table["temi"].to_numpy().reshape(len(EPOCHS), -1)


def opened(store, **changes):
    settings = store.settings().model_copy(update=changes)
    return tracked(settings, store, RunProgress(verbose=False), check=lambda: None)


def test_every_epoch_is_logged_with_its_losses_and_rates(finished):
    """Though an epoch takes far less time than passes between two looks at what the worker reports."""
    steps = steps_of(finished, "heads")
    assert list(steps) == list(EPOCHS)
    temi = losses_of(finished)
    for name, expected in (("mean_loss", temi.mean(1)), ("best_loss", temi.min(1)), ("worst_loss", temi.max(1))):
        np.testing.assert_allclose([figures[name] for figures in steps.values()], expected, rtol=1e-5)
    recipe = TINY["heads"]
    full = recipe["learning_rate"] * recipe["batch_size"] / 256
    rates = [figures["learning_rate"] for figures in steps.values()]
    np.testing.assert_allclose(rates, [full / 2] + [full] * (len(EPOCHS) - 1))
    assert all(figures["epochs_per_second"] > 0 for figures in steps.values())


def test_every_stage_ends_with_its_figures(finished):
    summaries = {line.stage: dict(line.figures) for line in lines_of(finished) if line.event == "summary"}
    assert list(summaries) == list(STAGES)
    metrics = finished.metrics()
    assert summaries["consensus"] == scalars(metrics["consensus"])
    assert {"anmi", "mean_agreement", "alarms", "seconds", "scores/mcla"} <= set(summaries["consensus"])
    assert summaries["embed"]["rejected"] == metrics["embed"]["rejected"]


def test_tensorboard_shows_the_same(finished):
    expected = {}
    for line in lines_of(finished):
        for tag, value in line.tagged():
            expected.setdefault(tag, []).append((line.step, np.float32(value)))
    assert curves(Path(finished.root) / "tensorboard") == expected


def test_a_run_that_was_not_tracked_is_logged_from_its_files(copy):
    summaries = {line.stage: line.figures for line in lines_of(copy) if line.event == "summary"}
    copy.storage.delete("metrics.jsonl")
    copy.storage.delete_tree("tensorboard")
    with opened(copy) as later:
        later.log_evaluation({"labels": "file.csv", "images": 3, "consensus": {"acc": 0.5}})
    with opened(copy) as later:
        later.log_evaluation({"consensus": {"acc": 0.75}})
    again = {line.stage: line.figures for line in lines_of(copy) if line.event == "summary"}
    assert {stage: again[stage] for stage in summaries} == summaries
    np.testing.assert_allclose(
        [figures["mean_loss"] for figures in steps_of(copy, "heads").values()], losses_of(copy).mean(1), rtol=1e-5
    )
    (events,) = (Path(copy.root) / "tensorboard").iterdir()
    before = events.stat().st_mtime_ns
    with opened(copy) as later:
        later.log_evaluation({"consensus": {"acc": 0.75}})  # nothing new
    assert events.stat().st_mtime_ns == before
    shown = curves(Path(copy.root) / "tensorboard")
    assert shown["evaluation/summary/consensus/acc"] == [(0, 0.5), (1, 0.75)]
    assert [step for step, _ in shown["heads/mean_loss"]] == list(EPOCHS)


def test_a_stage_done_again_leaves_no_line_of_before(copy):
    """With no tracker at all: the lines are kept, and verify finds nothing amiss."""
    with opened(copy) as tracking:
        tracking.log_evaluation({"consensus": {"acc": 0.5}})
    kept = [line for line in lines_of(copy) if line.stage in ("list", "embed", "heads", "consensus")]
    changes = {"classifier": {"iterations": 60}, "tracking": {"to": "none"}}
    settings = tiny(copy.settings().source, copy.root, **changes)
    metrics = pipeline.run(settings, redo="classifier", last="classifier", verbose=False)
    after = lines_of(copy)
    assert [line for line in after if line.stage in ("list", "embed", "heads", "consensus")] == kept
    assert [line.event for line in after if line.stage == "run"] == ["begin"]
    assert [line for line in after if line.stage in ("predict", "evaluation")] == []
    (summary,) = [line for line in after if (line.stage, line.event) == ("classifier", "summary")]
    assert summary.figures["heldout_accuracy"] == metrics["classifier"]["heldout_accuracy"]
    assert max(steps_of(copy, "classifier")) == 60
    assert list(violations(copy)) == []


def test_lines_of_a_stage_that_was_deleted_go_with_the_next_start(copy):
    """As after a driver that was killed between `--redo` and its first line."""
    copy.discard_from("consensus")
    with opened(copy):
        pass
    stages = {line.stage for line in lines_of(copy)}
    assert stages == {"run", "list", "embed", "sample", "neighbors", "heads"}
    assert {tag.partition("/")[0] for tag in curves(Path(copy.root) / "tensorboard")} == stages - {"run"}


def test_a_tracker_that_is_not_installed_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", "no_such_package")
    settings = tiny(tmp_path, tmp_path / "run", tracking={"to": "mlflow"})
    with fails(SettingsError, "pip install 'icce-ray[mlflow]'"):
        pipeline.run(settings, verbose=False)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_be_reached_is_an_error_of_the_run(copy, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = lines_of(copy)
    tracking = copy.settings().tracking.model_copy(update={"to": ("mlflow",)})
    with fails(RunError, "http://127.0.0.1:9"), opened(copy, tracking=tracking):
        pass
    assert lines_of(copy) == before
