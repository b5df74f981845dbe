"""One run's directory: names of shards, markers, the settings it is bound to, and its figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import yaml

from icce_ray.adapters.storage import FileInfo, Storage
from icce_ray.settings import EmbedSettings, Settings, SettingsError, load
from icce_ray.store.fingerprints import DEPENDS, differences, fingerprint
from icce_ray.store.markers import Marker, RunError
from icce_ray.store.names import (
    ARTIFACTS,
    FURTHER_ARTIFACTS,
    MARKER,
    METRICS_FILE,
    PREDICTION_FILE,
    REPORT,
    RUN_FILE,
    checkpoint_of,
)
from icce_ray.version import __version__


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
            command = "icce predict" if self.holds_prediction() else "icce run"
            raise RunError(
                f"stage {stage} of {self.root} is not complete: {ARTIFACTS[stage]}/{MARKER} is missing; "
                f"run the same `{command}` command again to finish it"
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
        found = differences(before.defining(), settings.defining())
        if redo is not None:
            kept = list(ARTIFACTS)[: list(ARTIFACTS).index(redo)]
            bound = {name for stage in kept for name in DEPENDS[stage]}
            found = [item for item in found if any(f"{item[0]}.".startswith(f"{name}.") for name in bound)]
        if found:
            lines = "\n".join(f"  {name}: {old!r} in the run, {new!r} now" for name, old, new in found)
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
            found = differences(self.prediction_file(), purpose)
            if found:
                lines = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in found)
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

    def prediction_file(self) -> dict[str, Any]:
        """Content of `prediction.yaml`: run, classifier, source, and how it is listed. RunError if it is damaged."""
        try:
            content = yaml.safe_load(self.storage.read_bytes(PREDICTION_FILE))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{self.storage.uri(PREDICTION_FILE)} is damaged: {error}; give another --out") from error
        if not isinstance(content, dict) or not {"run", "classifier", "source"} <= content.keys():
            raise RunError(
                f"{self.storage.uri(PREDICTION_FILE)} does not say run, classifier and source; give another --out"
            )
        return content

    def holds_prediction(self) -> bool:
        """Whether this is no run but what `icce predict` has written."""
        return not self.storage.exists(RUN_FILE) and self.storage.exists(PREDICTION_FILE)

    def images(self) -> tuple[str, EmbedSettings]:
        """Where the images of this run or prediction lie, and how they were read.

        Of a prediction whose run is gone, how is not known any more: then the default settings. Raises RunError if
        this is neither, or damaged.
        """
        if not self.holds_prediction():
            settings = self.settings()
            return settings.source, settings.embed
        content = self.prediction_file()
        run = Store(str(content["run"]))
        there = run.storage.exists(RUN_FILE)
        return content["source"], run.settings().embed if there else EmbedSettings()

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

    def report(self) -> str | None:
        """Path or URI of the page about the run, None if there is none."""
        return self.storage.uri(REPORT) if self.storage.exists(REPORT) else None

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


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
