"""The run on storage: the only file that knows artifact names, completion markers and fingerprints.

A run is a directory at a URI. Every stage writes its files, each whole or not at all, and last its marker,
`<artifact>/_manifest.json`: a stage is complete when the marker stands. `run.yaml` holds the settings the run was
started with; the same directory never serves two.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from icce_ray.adapters.storage import FileInfo, Storage
from icce_ray.settings import Settings, SettingsError, load
from icce_ray.version import __version__

#: Stages in the order of the run, and the artifact (directory) that carries each one's marker.
ARTIFACTS = {
    "list": "manifest",
    "embed": "features",
    "sample": "sample",
    "neighbors": "neighbors",
    "heads": "heads",
    "consensus": "consensus",
    "classifier": "classifier",
    "predict": "predictions",
}
#: Directories that a stage writes besides the one with its marker.
HEAD_LABELS = "head_labels"
FURTHER_ARTIFACTS = {"heads": (HEAD_LABELS,)}
MARKER = "_manifest.json"
RUN_FILE = "run.yaml"
PREDICTION_FILE = "prediction.yaml"
METRICS_FILE = "metrics.json"

#: Settings a stage depends on by itself; those of the stages before it come through their fingerprints.
_DEPENDS = {
    "list": ("source", "list"),
    "embed": ("embed",),
    "sample": ("heads.max_images", "heads.sample_seed"),
    "neighbors": ("clusters", "neighbors"),
    "heads": ("clusters", "seed", "heads"),
    "consensus": ("clusters", "seed", "consensus"),
    "classifier": ("clusters", "seed", "classifier"),
    "predict": (),
}


class RunError(RuntimeError):
    """A run that cannot go on as asked; the message says what stands in the way and what to do."""


class RejectBudgetError(RunError):
    """More inputs were rejected than the budget allows; what the others gave is complete."""


@dataclass(frozen=True)
class Marker:
    """What `_manifest.json` says of a complete stage."""

    stage: str
    fingerprint: str
    files: list[FileInfo]
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = ""

    def rows_of(self, prefix: str) -> list[FileInfo]:
        """The files below a directory of the artifact, in the order of their names."""
        return sorted((info for info in self.files if info.path.startswith(prefix)), key=lambda info: info.path)


class Store:
    """Artifacts and markers of one run."""

    def __init__(self, root: str) -> None:
        self.storage = Storage(root)

    @property
    def root(self) -> str:
        """The run's directory or URI."""
        return self.storage.root

    # -- names -------------------------------------------------------------------------------------------------

    @staticmethod
    def part(artifact: str, index: int) -> str:
        """Name of one Parquet shard, e.g. `features/status=ok/part-000012.parquet`."""
        return f"{artifact}/part-{index:06d}.parquet"

    def parts(self, artifact: str) -> set[int]:
        """Numbers of the shards of an artifact that are there, complete or not as a set."""
        names = (name.removeprefix(f"{artifact}/") for name, _ in self.storage.list(artifact))
        return {int(name[5:11]) for name in names if name.startswith("part-") and name.endswith(".parquet")}

    # -- markers -----------------------------------------------------------------------------------------------

    def marker(self, stage: str) -> Marker | None:
        """The marker of a complete stage, None if it is not complete. Raises RunError if it cannot be read."""
        path = f"{ARTIFACTS[stage]}/{MARKER}"
        try:
            content = json.loads(self.storage.read_bytes(path))
            return Marker(**content | {"files": [FileInfo(**info) for info in content["files"]]})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{self.storage.uri(path)} is damaged or of another version ({error}); "
                f"repeat the run from there on with --redo {stage}"
            ) from error

    def require(self, stage: str) -> Marker:
        """The marker of a stage that must be complete. Raises RunError if it is not."""
        marker = self.marker(stage)
        if marker is None:
            raise RunError(
                f"stage {stage} of {self.root} is not complete: {ARTIFACTS[stage]}/{MARKER} is missing; "
                "run the same `icce run` command again to finish it"
            )
        return marker

    def commit(
        self, stage: str, files: Iterable[FileInfo], *, fingerprint: str, summary: dict[str, Any], seconds: float
    ) -> Marker:
        """Write the marker of a stage whose files all stand: from here on it is complete, and needs no checkpoint."""
        ordered = sorted(files, key=lambda info: info.path)
        marker = Marker(stage, fingerprint, ordered, summary, round(seconds, 3), _now())
        self.storage.write_bytes(f"{ARTIFACTS[stage]}/{MARKER}", _json(asdict(marker)))
        self.storage.delete(checkpoint_of(stage))
        return marker

    def discard_from(self, stage: str) -> None:
        """Delete the artifacts of a stage and of all after it, markers first."""
        stages = list(ARTIFACTS)[list(ARTIFACTS).index(stage) :]
        for later in reversed(stages):
            self.storage.delete(f"{ARTIFACTS[later]}/{MARKER}")
        for later in reversed(stages):
            for artifact in (ARTIFACTS[later], *FURTHER_ARTIFACTS.get(later, ())):
                self.storage.delete_tree(artifact)

    def sampled(self) -> bool:
        """Whether stages after `embed` work on a sample of the images (`heads.max_images`)."""
        marker = self.marker("sample")
        return marker is not None and bool(marker.files)

    # -- settings ----------------------------------------------------------------------------------------------

    def claim(self, settings: Settings, *, redo: str | None = None) -> bool:
        """Bind the directory to these settings; True if it was not a run before.

        With `redo`, artifacts from that stage on are deleted and only what earlier stages depend on must agree.
        Raises RunError that names every setting that differs, or what else lies there.
        """
        if redo is not None and redo not in ARTIFACTS:
            raise RunError(f"--redo {redo}: there is no such stage; stages are {', '.join(ARTIFACTS)}")
        if not self.storage.exists(RUN_FILE):
            self._check_free()
            self._write_run_file(settings)
            return True
        before = self.settings()
        differences = _differences(before.defining(), settings.defining())
        if redo is not None:
            kept = list(ARTIFACTS)[: list(ARTIFACTS).index(redo)]
            bound = {name for stage in kept for name in _DEPENDS[stage]}
            differences = [item for item in differences if any(f"{item[0]}.".startswith(f"{name}.") for name in bound)]
        if differences:
            lines = "\n".join(f"  {name}: {old!r} in the run, {new!r} now" for name, old, new in differences)
            raise RunError(
                f"{self.root} is a run of other settings:\n{lines}\n"
                "give another --out, or the run's own settings, or --redo STAGE to repeat it from that stage on"
            )
        if redo is not None:
            self.discard_from(redo)
        if redo is not None or before.model_copy(update={"out": settings.out}) != settings:
            self._write_run_file(settings)  # resources or the reject budget may change between attempts
        return False

    def claim_prediction(self, purpose: dict[str, str]) -> None:
        """Bind a directory to predicting one source with one classifier. Raises RunError if it serves another."""
        if self.storage.exists(PREDICTION_FILE):
            before = yaml.safe_load(self.storage.read_bytes(PREDICTION_FILE))
            differences = _differences(before, purpose)
            if differences:
                lines = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences)
                raise RunError(f"{self.root} holds other predictions:\n{lines}\ngive another --out")
            return
        self._check_free()
        self.storage.write_bytes(PREDICTION_FILE, yaml.safe_dump(purpose, sort_keys=False).encode())

    def abandon(self) -> None:
        """Undo `claim` of a directory in which no stage has begun."""
        self.storage.delete_tree(ARTIFACTS["list"])
        self.storage.delete(RUN_FILE)

    def _check_free(self) -> None:
        """Raise RunError if names that stages write are taken: they may be somebody's data."""
        artifacts = [*ARTIFACTS.values(), *(name for names in FURTHER_ARTIFACTS.values() for name in names)]
        taken = [name for name in artifacts if self.storage.exists(name) or self.storage.list(name)]
        if taken:
            raise RunError(
                f"{self.root} is not a run ({RUN_FILE} is missing), but holds {', '.join(taken)}, which a run "
                "would write to; give an empty --out"
            )

    def run_file(self) -> dict[str, Any]:
        """Content of `run.yaml`. Raises RunError if this is no run."""
        try:
            content = yaml.safe_load(self.storage.read_bytes(RUN_FILE))
        except FileNotFoundError:
            raise RunError(f"{self.root} is not a run: it has no {RUN_FILE}; `icce run` makes one") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{self.storage.uri(RUN_FILE)} is damaged: {error}; give another --out") from error
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise RunError(f"{self.root} is not a run: its {RUN_FILE} holds no settings; give another --out")
        return content

    def settings(self) -> Settings:
        """The settings the run was started with. Raises RunError if this version does not know them."""
        content = self.run_file()
        try:
            return load(content["settings"] | {"out": self.root})
        except SettingsError as error:
            raise RunError(
                f"{self.storage.uri(RUN_FILE)}, of icce-ray {content.get('icce_ray')}, has settings that icce-ray "
                f"{__version__} does not take:\n{error}\nuse the version that wrote it, or give another --out"
            ) from error

    def _write_run_file(self, settings: Settings) -> None:
        packages = ("ray", "torch", "transformers", "faiss-cpu", "pyarrow", "numpy", "scipy", "pymetis", "mtkahypar")
        content = {
            "icce_ray": __version__,
            "created": _now(),
            "settings": settings.model_dump(mode="json"),
            "fingerprints": {stage: fingerprint(settings, stage) for stage in ARTIFACTS},
            "versions": {"python": platform.python_version()} | {name: _installed(name) for name in packages},
        }
        self.storage.write_bytes(RUN_FILE, yaml.safe_dump(content, sort_keys=False).encode())

    # -- figures -----------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Every figure of the run so far, stage by stage."""
        try:
            return json.loads(self.storage.read_bytes(METRICS_FILE))
        except FileNotFoundError:
            return {}

    def record(self, section: str, figures: dict[str, Any]) -> None:
        """Set one section of `metrics.json`."""
        self.storage.write_bytes(METRICS_FILE, _json(self.metrics() | {section: figures}))


def checkpoint_of(stage: str) -> str:
    """Where a stage keeps what it needs to go on after a kill; deleted once its marker stands, never before."""
    return f"{ARTIFACTS[stage]}/checkpoint.safetensors"


def fingerprint(settings: Settings, stage: str) -> str:
    """Digest of all settings that the stage's result depends on, those of the stages before it included."""
    values = settings.defining()
    digest = hashlib.sha256()
    for name in ARTIFACTS:
        digest.update(json.dumps({key: _value(values, key) for key in _DEPENDS[name]}, sort_keys=True).encode())
        if name == stage:
            return digest.hexdigest()[:16]
    raise ValueError(f"unknown stage {stage!r}; stages are {', '.join(ARTIFACTS)}")


def _value(values: dict[str, Any], name: str) -> Any:
    """The setting of a dotted name."""
    for part in name.split("."):
        values = values[part]
    return values


def _differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of all leaves that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in now | before:
            found += _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if before == now else [(prefix, before, now)]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
