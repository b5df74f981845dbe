"""Sweeps over one embedding: killed and resumed, drawn at random, stopped early; a trial is its settings' run."""

import hashlib

import numpy as np
import pytest
import yaml

from icce_ray import commands
from icce_ray.settings.sweep import Sweep
from icce_ray.stages.features import read_column
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import HEAD_LABELS, RUN_FILE
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.failures import fails

from .drivers import Driver, shared_cluster, stamps

PARAMS = ["neighbors.threshold=0.6:0.7:0.05", "heads.ce_weight=0,1"]  # threshold 0.65 and weight 1 are the run's
FOLDER = "sweeps/threshold+ce_weight"


def trials_of(store, folder=FOLDER):
    return [name for name, _ in store.storage.list(f"{folder}/trials") if name.endswith(".json")]


@pytest.mark.slow(60)
@pytest.mark.faults
def test_a_killed_sweep_goes_on(copy, digits, tmp_path, ends, capsys):
    labels = str(digits[1])
    command = ["sweep", copy.root, "--labels", labels, *(word for param in PARAMS for word in ("--param", param))]
    with barrier(copy, f"{FOLDER}/trials/*.json", passes=2) as held:
        Driver(command, tmp_path, ends, shared_cluster()).kill_at(held)
    log = (tmp_path / "log.txt").read_text()
    assert "mining once for all 6 trials: threshold = 0.6, k_min = 20, k_max = 32" in log
    kept = trials_of(copy) + [name for name, _ in copy.storage.list(f"{FOLDER}/neighbors")]
    before = stamps(copy, *kept)
    assert len(trials_of(copy)) == 2

    asked = Sweep.of(PARAMS, labels=labels)
    table = commands.sweep(copy.root, asked)
    shown = capsys.readouterr().err
    assert "mined before, for all 6 trials" in shown
    assert "2 of 6 trials were done before" in shown
    assert stamps(copy, *kept) == before, "finished trials and neighbours stay as they are"
    assert copy.storage.read_table(f"{FOLDER}/results.parquet").equals(table)
    assert b"Plotly.newPlot" in copy.storage.read_bytes(f"{FOLDER}/plot.html")
    assert not [name for name, _ in copy.storage.list(FOLDER) if name.endswith(".safetensors")], "no checkpoint is left"
    assert list(violations(copy)) == []
    the_trials_are_right(copy, table)

    with fails(RunError, "labels", labels, "None now"):
        commands.sweep(copy.root, Sweep.of(PARAMS), verbose=False)
    commands.sweep(copy.root, asked)
    assert "trial " not in capsys.readouterr().err, "nothing is left to do"


def the_trials_are_right(store, table):
    """Six rows in order, and the trial of the run's own settings is the run."""
    rows = table.to_pylist()
    points = [(row["neighbors.threshold"], row["heads.ce_weight"]) for row in rows]
    assert points == [(threshold, weight) for threshold in (0.6, 0.65, 0.7) for weight in (0.0, 1.0)]
    assert {row["state"] for row in rows} == {"complete"}
    means = [row["mean_neighbors"] for row in rows[::2]]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]
    own = next(row for row in rows if (row["neighbors.threshold"], row["heads.ce_weight"]) == (0.65, 1.0))
    figures = yaml.safe_load(store.storage.read_bytes(f"{FOLDER}/trials/{own['digest']}.json"))["figures"]
    heads, neighbors, consensus = (store.require(stage).summary for stage in ("heads", "neighbors", "consensus"))
    np.testing.assert_allclose(figures["temi"], heads["temi"], rtol=1e-5)
    assert figures["best_head"] == heads["best_head"]
    labels = np.ascontiguousarray(read_column(store, HEAD_LABELS, "labels"))
    assert figures["head_labels_sha256"] == hashlib.sha256(labels.tobytes()).hexdigest()
    assert own["mean_neighbors"] == pytest.approx(neighbors["mean_neighbors"])
    assert own["anmi"] == pytest.approx(consensus["anmi"])
    assert own["acc"] == own["objective"] > 0.5
    assert own["mean_head_acc"] <= own["acc"] + 0.1
    assert 0.8 < own["neighbor_accuracy"] <= 1.0


@pytest.mark.slow(60)
def test_random_and_asha(copy, tmp_path, capsys):
    """Draws at one epoch each and without labels; early stopping, whose trials are replayed when asked again."""
    settings = copy.run_file()
    settings["settings"]["heads"] |= {"epochs": 6, "warmup_epochs": 1, "heads": 3}
    settings["settings"]["consensus"]["methods"] = ["mcla"]
    copy.discard_from("heads")
    copy.storage.write_bytes(RUN_FILE, yaml.safe_dump(settings).encode())
    drawn = Sweep.of(["heads.learning_rate=1e-4:1e-2:log", "clusters=8:12"], search="random", samples=2)
    rows = commands.sweep(copy.root, drawn, name="drawn", verbose=False).to_pylist()
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert all(row["objective"] == row["modularity"] <= 1 - 1 / row["used_clusters"] for row in rows)
    assert rows[0]["acc"] is None

    early = Sweep.of(["heads.learning_rate=3e-3,1e-30,1e-6,5e18"], search="asha", grace=1)
    one = commands.sweep(copy.root, early, name="early", at_once=1).to_pylist()
    shown = capsys.readouterr().err
    assert [row["state"] for row in one] == ["complete", "stopped", "stopped", "failed"]
    assert "stopped at epoch 1, " in shown
    assert "failed: the losses are not finite from epoch" in shown
    assert one[3]["objective"] is None
    (tmp_path / "other.csv").write_text("uri,label\nelsewhere.png,0\n")
    with fails(RunError, "other.csv", "320 images"):
        commands.sweep(copy.root, Sweep.of(["seed=0"], labels=str(tmp_path / "other.csv")), verbose=False)

    copy.storage.delete(f"sweeps/early/trials/{one[2]['digest']}.json")
    two = commands.sweep(copy.root, early, name="early", verbose=False).to_pylist()
    assert [row["state"] for row in two] == ["complete", "stopped", "stopped", "failed"], "it saw those before it"


def test_refused(finished, tmp_path):
    empty = Store(str(tmp_path / "empty"))
    with fails(RunError, empty.root):
        commands.sweep(empty.root, Sweep.of(["seed=0,1"]))
    with fails(RunError, "clusters=321", "320 images", "fewer"):
        commands.sweep(finished.root, Sweep.of(["clusters=10,321"]))
    with fails(RunError, "--name ../x"):
        commands.sweep(finished.root, Sweep.of(["seed=0,1"]), name="../x")
    assert not finished.storage.list("sweeps")
