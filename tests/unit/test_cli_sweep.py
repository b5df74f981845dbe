"""`icce sweep` and its table, and sweeps in `icce status`."""

from rich.console import Console
from typer.testing import CliRunner

from icce_ray.cli.main import app
from icce_ray.cli.sweep import sweeps_of, trials_table
from icce_ray.stages.sweep.records import FIGURES
from icce_ray.store import Store


def results(*rows):
    return [dict.fromkeys((*FIGURES, "objective", "epochs", "seconds", "state")) | row for row in rows]


def shown(table):
    console = Console(width=200, color_system=None)
    with console.capture() as text:
        console.print(table)
    return text.get()


def test_brackets_and_colons_of_the_help_are_no_markup():
    result = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    text = " ".join(result.output.split())
    assert "icce sweep runs/photos --param neighbors.threshold=0.1:1.0:0.1 " in text
    assert "0,0.5,1 or [mcla],[mcla,hbgf]" in text
    assert "clusters=10:90:20" in text


def test_the_table_has_the_columns_of_table_11():
    row = {"neighbors.threshold": 0.3, "mean_neighbors": 940.7, "neighbor_accuracy": 0.9085, "best_head_acc": 0.9234}
    row |= {"mean_head_acc": 0.91, "std_head_acc": 0.0123, "acc": 0.93, "anmi": 0.8, "modularity": 0.7}
    row |= {"used_clusters": 100, "objective": 0.93, "seconds": 12.3, "state": "complete"}
    worse = row | {"neighbors.threshold": 0.2, "objective": 0.5}
    text = shown(trials_table(results(row, worse), ["neighbors.threshold"], labelled=True))
    assert "Best by ACC: neighbors.threshold=0.3" in text
    line = next(line for line in text.splitlines() if "│ " in line and " 0.3 " in line)
    cells = " ".join(line.replace("│", "").split())
    assert cells == "0.3 940.7 90.85 92.34 91.00 ± 1.23 93.00 0.8000 0.7000 100 12.3"


def test_without_labels_and_with_trials_that_did_not_end():
    rows = [
        {"seed": 0, "state": "complete", "objective": 0.5, "modularity": 0.5, "seconds": 1.0},
        {"seed": 1, "state": "stopped", "objective": 0.4, "epochs": 12},
        {"seed": 2, "state": "failed", "reason": "the losses are no numbers any more at epoch 3"},
    ]
    text = shown(trials_table(results(*rows), ["seed"], labelled=False))
    assert "Best by modularity: seed=0" in text
    assert "ACC" not in text
    assert "stopped at epoch 12" in text
    assert "failed: the losses are no numbers" in text
    assert "Best by modularity: none" in shown(trials_table(results(rows[2]), ["seed"], labelled=False))


def test_a_setting_that_trials_share_starts_nothing(icce, tmp_path):
    status, _, error = icce("sweep", tmp_path / "run", "--param", "embed.backbone=hog,x")
    assert (status, "share one embedding" in error) == (2, True), error
    assert not list(tmp_path.iterdir())


def test_sweeps_of_a_run(tmp_path):
    store = Store(str(tmp_path))
    for name in ("k/sweep.yaml", "k/trials/aa.json", "k/trials/bb.json", "k/trials/cc.safetensors", "new/sweep.yaml"):
        store.storage.write_bytes(f"sweeps/{name}", b"")
    assert sweeps_of(store) == {"k": 2, "new": 0}
