"""The end of a sweep: one row a trial, with the columns of the paper's Table 11 where labels are given, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from icce_ray.adapters.plots import Series, sweep_plot
from icce_ray.settings.params import short
from icce_ray.settings.sweep import Sweep, Trial
from icce_ray.stages.sweep.record import PLOT, RESULTS, Finished, Record

_REAL, _WHOLE, _TEXT = pa.float64(), pa.int64(), pa.string()
#: Figures of a trial that are columns, in this order; null where a trial has none.
COLUMNS = {
    "mean_neighbors": _REAL,
    "neighbor_accuracy": _REAL,
    "best_head_acc": _REAL,
    "mean_head_acc": _REAL,
    "std_head_acc": _REAL,
    "acc": _REAL,
    "nmi": _REAL,
    "ari": _REAL,
    "classifier_acc": _REAL,
    "heldout_accuracy": _REAL,
    "modularity": _REAL,
    "anmi": _REAL,
    "mean_agreement": _REAL,
    "used_clusters": _WHOLE,
    "method": _TEXT,
    "reason": _TEXT,
}


def write_results(record: Record, sweep: Sweep, trials: Sequence[Trial], finished: dict[str, Finished]) -> pa.Table:
    """Write `results.parquet` and the plot; returns the table, in the order of the trials."""
    rows = [_row(trial, finished[trial.digest]) for trial in trials]
    columns: dict[str, pa.Array] = {
        name: pa.array([row[name] for row in rows]) for name in ("trial", "digest", "state")
    }
    for param in sweep.params:
        columns[param.name] = _column([trial.params[param.name] for trial in trials])
    for name, kind in COLUMNS.items():
        columns[name] = pa.array([row.get(name) for row in rows], kind)
    columns["objective"] = pa.array([row["objective"] for row in rows], _REAL)
    columns["epochs"] = pa.array([row["epochs"] for row in rows], _WHOLE)
    columns["seconds"] = pa.array([row["seconds"] for row in rows], _REAL)
    table = pa.table(columns)
    storage = record.store.storage
    storage.write_table(f"{record.folder}/{RESULTS}", table)
    labelled = sweep.labels is not None
    page = sweep_plot(
        table.to_pydict(),
        [param.name for param in sweep.params],
        title=record.name,
        objective="acc" if labelled else "modularity",
        series=shown(labelled),
    )
    storage.write_bytes(f"{record.folder}/{PLOT}", page)
    return table


def shown(labelled: bool) -> list[Series]:
    """What the plot shows of each trial."""
    if not labelled:
        return [Series("modularity", "modularity (the objective)"), Series("anmi", "ANMI")]
    return [
        Series("acc", "consensus"),
        Series("best_head_acc", "best head (lowest loss)"),
        Series("mean_head_acc", "all heads, mean and standard deviation", deviation="std_head_acc"),
        Series("neighbor_accuracy", "neighbours of the anchor's class"),
        Series("modularity", "modularity (label-free objective)"),
    ]


def _row(trial: Trial, one: Finished) -> dict[str, Any]:
    epochs = trial.settings.heads.epochs if one.state == "complete" else one.rungs[-1]["epoch"] if one.rungs else None
    figures = {name: value for name, value in one.figures.items() if name in COLUMNS}
    return figures | {
        "trial": trial.index,
        "digest": one.digest,
        "state": one.state,
        "objective": one.score,
        "epochs": epochs,
        "seconds": one.seconds,
    }


def _column(values: list[Any]) -> pa.Array:
    """A setting's values: numbers as numbers, anything else as it is shown."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return pa.array(values)
    return pa.array([short(value) for value in values])
