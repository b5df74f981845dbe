"""What a sweep keeps with the run, under `sweeps/NAME/`: the question, each finished trial, the shared neighbours.

Ray Tune's own state is pickle and stays in a temporary directory of the driver; a sweep resumes from these files alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from icce_ray.documents import DocumentError, shaped
from icce_ray.settings import Settings
from icce_ray.settings.sweep import NAME, Sweep, Trial
from icce_ray.store import SWEEPS, RunError, Store, fingerprint
from icce_ray.store.fingerprints import differences
from icce_ray.store.seals import opened_json, opened_yaml, sealed_json, sealed_yaml

QUESTION = "sweep.yaml"
RESULTS, PLOT = "results.parquet", "plot.html"
#: Settings of the run that every trial starts from; those before are in the fingerprint of its sample.
_BASE = ("clusters", "seed", "neighbors", "heads", "consensus", "classifier")


class Rung(TypedDict):
    """What a trial reported on its way."""

    epoch: int
    score: float
    mean_loss: NotRequired[float]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One trial that has ended, as its file says."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    digest: str
    params: dict[str, Any]
    state: Literal["complete", "stopped", "failed"]
    """`complete`, `stopped` (by `asha`, at its last rung) or `failed` (its settings lead nowhere)."""
    rungs: list[Rung]
    """What was reported on the way: `epoch`, `score`, `mean_loss`."""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(cls, data: bytes) -> Finished:
        """From the file's content. Raises DocumentError for anything else."""
        one = shaped(cls, opened_json(data))
        if (one.state == "complete" and "objective" not in one.figures) or (one.state == "stopped" and not one.rungs):
            raise DocumentError(f"a trial that is {one.state} has no objective")
        return one

    @property
    def score(self) -> float | None:
        """The objective at the end, or at the last rung of a trial that was stopped; None of one that failed."""
        if self.state == "failed":
            return None
        return self.figures["objective"] if self.figures else self.rungs[-1]["score"]


class Record:
    """One sweep of a run."""

    def __init__(self, store: Store, name: str) -> None:
        """Raises RunError if a sweep cannot bear this name."""
        if not NAME.fullmatch(name):
            raise RunError(f"--name {name}: a sweep is a folder; give letters, digits, '.', '_', '+', '-'")
        self.store, self.name = store, name
        self.folder = f"{SWEEPS}/{name}"

    @property
    def root(self) -> str:
        """The sweep's directory or URI, itself a place for the artifact `neighbors`."""
        return self.store.storage.uri(self.folder)

    def claim(self, base: Settings, sweep: Sweep) -> None:
        """Bind the name to this question. Raises RunError, with the differences, if it is another's."""
        values = base.defining()
        asked = sweep.asked() | {
            "shared": fingerprint(base, "sample"),
            "settings": {name: values[name] for name in _BASE},
        }
        asked = json.loads(json.dumps(asked))  # tuples as lists, as they come back
        storage, path = self.store.storage, f"{self.folder}/{QUESTION}"
        try:
            before = opened_yaml(storage.read_bytes(path))
        except FileNotFoundError:
            storage.write_bytes(path, sealed_yaml(asked))
            return
        except DocumentError as error:
            raise RunError(f"{storage.uri(path)} is damaged ({error}); give another --name") from error
        found = differences(before, asked)
        if found:
            lines = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in found)
            raise RunError(f"{self.root} is a sweep that asked otherwise:\n{lines}\ngive another --name")

    # -- trials ------------------------------------------------------------------------------------------------

    def checkpoint(self, digest: str) -> str:
        """Where a trial that trains keeps what it needs to go on; gone when it has ended."""
        return f"{self.folder}/trials/{digest}.safetensors"

    def finished(self, trials: Sequence[Trial]) -> dict[str, Finished]:
        """Those of the trials that have ended, by digest. Raises RunError for a file that cannot be read."""
        known = {trial.digest for trial in trials}
        found = {}
        for path, _ in self.store.storage.list(f"{self.folder}/trials"):
            digest = path.rpartition("/")[2].removesuffix(".json")
            if digest not in known:
                continue
            try:
                found[digest] = Finished.read(self.store.storage.read_bytes(path))
            except DocumentError as error:
                raise RunError(
                    f"{self.store.storage.uri(path)} is damaged ({error}); delete it and sweep again"
                ) from error
        return found

    def keep(self, finished: Finished) -> None:
        """Write a trial that has ended, whole or not at all; from here on it is never run again."""
        self.store.storage.write_bytes(f"{self.folder}/trials/{finished.digest}.json", sealed_json(asdict(finished)))
        self.store.storage.delete(self.checkpoint(finished.digest))
