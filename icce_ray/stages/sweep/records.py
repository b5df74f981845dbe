"""What a sweep keeps with the run, under `sweeps/NAME/`: what was asked, each trial that has ended, the table of all.

A sweep resumes from these files alone. Ray Tune's own state would not serve: it is pickle, which a run never holds, and
saved at most every ten seconds, so that Tuner.restore repeats trials that ended shortly before the driver was killed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NotRequired

import pyarrow as pa
from pydantic import ConfigDict
from typing_extensions import TypedDict

from icce_ray.documents import DocumentError, opened_json, opened_yaml, sealed_json, sealed_yaml, shaped
from icce_ray.settings import Settings
from icce_ray.settings.choosing import identity
from icce_ray.settings.sweep import NAME, TRIAL_SETTINGS, Sweep, Trial, short
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sweep.plots import sweep_plot
from icce_ray.store import RunError, Store, fingerprint
from icce_ray.store.artifacts import SWEEP_FILE, SWEEP_PLOT, SWEEP_TABLE, SWEEPS
from icce_ray.store.markers import differences

#: Figures of a trial that are columns of `results.parquet`, in this order; null where a trial has none.
FIGURES = {
    **dict.fromkeys(("mean_neighbors", "neighbor_accuracy"), pa.float64()),
    **dict.fromkeys(("best_head_acc", "mean_head_acc", "std_head_acc"), pa.float64()),
    **dict.fromkeys(("acc", "nmi", "ari", "classifier_acc", "heldout_accuracy"), pa.float64()),
    **dict.fromkeys(("modularity", "anmi", "mean_agreement"), pa.float64()),
    "used_clusters": pa.int64(),
    **dict.fromkeys(("method", "reason"), pa.string()),
}


class Rung(TypedDict):
    """What a trial reported on its way."""

    epoch: int
    score: float
    mean_loss: NotRequired[float]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial that has ended."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    digest: str
    params: dict[str, Any]
    state: Literal["complete", "stopped", "failed"]
    """`stopped` by `asha` at its last rung; `failed` where its settings allow no result."""
    rungs: list[Rung]
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(cls, data: bytes) -> TrialRecord:
        """From the content of its file. Raises DocumentError for anything else."""
        record = shaped(cls, opened_json(data))
        complete, stopped = record.state == "complete", record.state == "stopped"
        if (complete and "objective" not in record.figures) or (stopped and not record.rungs):
            raise DocumentError(f"a trial that is {record.state} has no objective")
        return record

    @property
    def score(self) -> float | None:
        """The objective at the end, or at the last rung of a trial that was stopped; None of one that failed."""
        if self.state == "failed":
            return None
        return self.figures["objective"] if self.state == "complete" else self.rungs[-1]["score"]

    @property
    def epoch(self) -> int | None:
        """The last rung, None of a trial that came to none."""
        return self.rungs[-1]["epoch"] if self.rungs else None

    def __str__(self) -> str:
        if self.state == "failed":
            return f"failed: {self.figures['reason']}"
        if self.state == "stopped":
            return f"stopped at epoch {self.epoch}, {self.score:.4f} there"
        return f"objective {self.score:.4f}, {self.seconds:.1f} s"


class SweepRecords:
    """The folder of one sweep, and the trials that were asked for."""

    def __init__(self, store: Store, name: str, sweep: Sweep, trials: Sequence[Trial]) -> None:
        """Raises RunError if no sweep can have this name."""
        if not NAME.fullmatch(name):
            raise RunError(f"--name {name}: a sweep is a folder; give letters, digits, '.', '_', '+', '-'")
        self.store, self.name, self.sweep, self.trials = store, name, sweep, trials
        self.folder = f"{SWEEPS}/{name}"
        self.root = store.storage.uri(self.folder)
        """Its directory or URI, which may hold an artifact `neighbors` like a run."""

    def inputs(self) -> FeatureRows:
        """What the heads of every trial learn from."""
        return FeatureRows.inputs(self.store, self.trials[0].settings.neighbors.components)

    def claim(self, base: Settings) -> None:
        """Bind the name to this sweep of a run with these settings. Raises RunError if it is bound to another."""
        values = identity(base)
        settings = {name: values[name] for name in TRIAL_SETTINGS}
        asked = self.sweep.defining() | {"shared": fingerprint(base, "sample"), "settings": settings}
        asked = json.loads(json.dumps(asked))  # tuples as lists, as they come back
        storage, path = self.store.storage, f"{self.folder}/{SWEEP_FILE}"
        try:
            before = opened_yaml(storage.read_bytes(path))
        except FileNotFoundError:
            storage.write_bytes(path, sealed_yaml(asked))
            return
        except DocumentError as error:
            raise RunError(f"{storage.uri(path)} is damaged ({error}); give another --name") from error
        changed = [f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences(before, asked)]
        if changed:
            raise RunError("\n".join([f"{self.root} is another sweep:", *changed, "give another --name"]))

    def ended(self) -> dict[str, TrialRecord]:
        """Those of the trials that have ended, by digest. Raises RunError for a file that cannot be read."""
        storage, records = self.store.storage, {}
        digests = {f"{self.folder}/trials/{trial.digest}.json": trial.digest for trial in self.trials}
        for path in digests.keys() & {path for path, _ in storage.list(f"{self.folder}/trials")}:
            try:
                records[digests[path]] = TrialRecord.read(storage.read_bytes(path))
            except DocumentError as error:
                raise RunError(f"{storage.uri(path)} is damaged ({error}); delete it and sweep again") from error
        return records

    def write(self, record: TrialRecord) -> None:
        """Keep a trial that has ended, in one atomic step; it is never run again."""
        self.store.storage.write_bytes(f"{self.folder}/trials/{record.digest}.json", sealed_json(asdict(record)))
        self.store.storage.delete(checkpoint_path(self.folder, record.digest))

    def write_results(self) -> pa.Table:
        """Write `results.parquet`, a row for each of the trials, which all have ended, and the plot; the table."""
        by_digest, trials, sweep = self.ended(), self.trials, self.sweep
        records = [by_digest[trial.digest] for trial in trials]
        epochs = [
            trial.settings.heads.epochs if record.state == "complete" else record.epoch
            for trial, record in zip(trials, records, strict=True)
        ]
        figures = {name: pa.array([one.figures.get(name) for one in records], kind) for name, kind in FIGURES.items()}
        table = pa.table(
            {
                "trial": [trial.index for trial in trials],
                "digest": [record.digest for record in records],
                "state": [record.state for record in records],
                **{param.name: _column([trial.params[param.name] for trial in trials]) for param in sweep.params},
                **figures,
                "objective": pa.array([record.score for record in records], pa.float64()),
                "epochs": pa.array(epochs, pa.int64()),
                "seconds": pa.array([record.seconds for record in records], pa.float64()),
            }
        )
        self.store.storage.write_table(f"{self.folder}/{SWEEP_TABLE}", table)
        params = [param.name for param in sweep.params]
        plot = sweep_plot(table.to_pydict(), params, title=self.name, labelled=sweep.labels is not None)
        self.store.storage.write_bytes(f"{self.folder}/{SWEEP_PLOT}", plot)
        return table


def checkpoint_path(folder: str, digest: str) -> str:
    """Where a trial keeps the state of its training; gone when it has ended."""
    return f"{folder}/trials/{digest}.safetensors"


def _column(values: list[Any]) -> pa.Array:
    """The values of a setting: numbers as numbers, anything else as it is shown."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return pa.array(values if numbers else [short(value) for value in values])
