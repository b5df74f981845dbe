"""One run's directory: its shards and markers, the settings it is bound to, and its figures."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from icce_ray.documents import (
    DocumentError,
    now,
    opened_json,
    opened_yaml,
    parse_json,
    sealed_json,
    sealed_yaml,
    shaped,
)
from icce_ray.io.storage import FileInfo
from icce_ray.settings import EmbedSettings, Settings, SettingsError, load
from icce_ray.settings.choosing import with_numbers, with_papers
from icce_ray.store.artifacts import (
    DECISIONS_FILE,
    MANIFEST,
    MARKER,
    METRICS_FILE,
    PREDICTION_FILE,
    REFINED,
    REPORT,
    RUN_FILE,
    STAGES,
    SWEEPS,
    UPDATES,
    Document,
    Table,
    checkpoint_of,
    folders_of,
    stage_of,
    stages_before,
)
from icce_ray.store.markers import Marker, RunError, check_figures, differences, fingerprints
from icce_ray.store.places import storage_of
from icce_ray.store.shards import in_order, shard_number
from icce_ray.version import __version__

_OTHER_PLACE = "give another --out"
_PACKAGES = ("ray", "torch", "transformers", "timm", "faiss-cpu", "faiss-gpu", "pyarrow", "numpy", "scipy")
_PARTITIONERS = ("pymetis", "mtkahypar")


class Store:
    """Artifacts and markers of one run, of what `icce predict` wrote, of an update, or of a refined version.

    What a version has not for itself is read from its run, whose root is `origin`, and what its updates have not from
    the run's updates; of anything else `origin` is None.
    """

    def __init__(self, root: str) -> None:
        self.storage, self.origin = storage_of(root, self.remedy)

    @property
    def root(self) -> str:
        """The run's directory or URI."""
        return self.storage.root

    def parts(self, table: Table, *, of: int | None = None) -> set[int]:
        """Numbers of the shards of a table that are there, complete or not as a set.

        Raises RunError for one that cannot be of a table of `of` shards.
        """
        paths = (path for path, _ in self.storage.list(table.path) if table.holds(path))
        numbers = {number for path in paths if (number := shard_number(path)) is not None}
        if of is not None and numbers and max(numbers) >= of:
            path = table.part(max(numbers))
            raise RunError(
                f"{self.storage.uri(path)} is of another run: here {table.path} has {of} shards; {self.remedy(path)}"
            )
        return numbers

    # -- markers -----------------------------------------------------------------------------------------------

    def marker(self, stage: str) -> Marker | None:
        """The marker of a complete stage, None if it is not complete. Raises RunError if it cannot be read."""
        path = marker_path(stage)
        try:
            data = self.storage.read_bytes(path)
        except FileNotFoundError:
            return None
        with self._reading(path):
            marker = Marker.read(data)
            if marker.stage != stage:
                raise DocumentError(f"it is that of stage {marker.stage}")
        return marker

    def require(self, stage: str) -> Marker:
        """The marker of a stage that must be complete. Raises RunError if it is not."""
        marker = self.marker(stage)
        if marker is None:
            name = "predict" if self.holds_prediction() else "refine" if self.origin else "run"
            name = "update" if self._is_update() else name
            raise RunError(
                f"stage {stage} of {self.root} is not complete: {marker_path(stage)} is missing; run the same "
                f"`icce {name}` command again to finish it"
            )
        return marker

    def commit(
        self, stage: str, files: Iterable[FileInfo], *, fingerprint: str, summary: dict[str, Any], seconds: float
    ) -> Marker:
        """Write the marker of a stage whose files all stand: from here on it is complete, and needs no checkpoint."""
        marker = Marker(stage, fingerprint, in_order(files), summary, round(seconds, 3), now())
        self.storage.write_bytes(marker_path(stage), marker.data())
        for space in ("", *summary.get("head_spaces", ())):
            self.storage.delete(checkpoint_of(stage, space))
        return marker

    def discard_from(self, stage: str) -> None:
        """Delete the artifacts of a stage and of all after it, markers first."""
        stages = list(STAGES)[list(STAGES).index(stage) :]
        for later in reversed(stages):
            self.storage.delete(marker_path(later))
        for later in reversed(stages):
            for folder in folders_of(later):
                self.storage.delete_tree(folder)

    def remedy(self, path: str) -> str:
        """What to do about a file of the run that is damaged or missing."""
        if self.holds_prediction():
            return f"delete {self.root} and update again" if self._is_update() else f"{_OTHER_PLACE} to `icce predict`"
        if self.origin and stage_of(path) in REFINED:
            return f"delete {self.root} and refine again with its {DECISIONS_FILE}"
        if path.startswith(f"{SWEEPS}/"):
            return f"delete {'/'.join(path.split('/')[:2])} and sweep again"
        stage = stage_of(path)
        again = f"--redo {stage}" if stage else "--redo STAGE"
        return f"{again} with the command of the run repeats it from there on"

    def document(self, document: Document) -> dict[str, Any]:
        """Content of a JSON file. Raises RunError for other content, FileNotFoundError if it is not there."""
        with self._reading(document.path):
            return shaped(document.type, parse_json(self.storage.read_bytes(document.path)))

    @contextmanager
    def _reading(self, path: str, remedy: str | None = None) -> Iterator[None]:
        """Content of a file that cannot be used is a RunError, which names the file and what to do about it."""
        try:
            yield
        except DocumentError as error:
            uri, remedy = self.storage.uri(path), remedy or self.remedy(path)
            raise RunError(f"{uri} is damaged or of another version ({error}); {remedy}") from error

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
        if self.origin:
            raise RunError(f"{self.root} is a refined version of {self.origin}: run that, or refine it again")
        if not self.storage.exists(RUN_FILE):
            self._check_free()
            self.write_run_file(settings, fingerprints(settings))
            return True
        before = self.settings()
        changed = differences(before.defining(), settings.defining())
        if redo is not None:
            bound = {name for stage in stages_before(redo) for name in STAGES[stage].settings}
            changed = [item for item in changed if any(f"{item[0]}.".startswith(f"{name}.") for name in bound)]
        if changed:
            lines = "\n".join(f"  {name}: {old!r} in the run, {new!r} now" for name, old, new in changed)
            raise RunError(
                f"{self.root} is a run of other settings:\n{lines}\n"
                "give another --out, or the run's own settings, or --redo STAGE to repeat it from that stage on"
            )
        if redo is not None:
            self.discard_from(redo)
        if redo is not None or before.model_copy(update={"out": settings.out}) != settings:
            self.write_run_file(
                settings, fingerprints(settings)
            )  # resources or the reject budget may change between attempts
        return False

    def claim_prediction(self, purpose: dict[str, str]) -> None:
        """Bind a directory to predicting one source with one classifier. Raises RunError if it serves another."""
        if self.storage.exists(PREDICTION_FILE):
            changed = differences(self.prediction_file(), purpose)
            if changed:
                lines = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in changed)
                raise RunError(f"{self.root} holds other predictions:\n{lines}\n{_OTHER_PLACE}")
            return
        self._check_free()
        self.storage.write_bytes(PREDICTION_FILE, sealed_yaml(purpose))

    def abandon(self) -> None:
        """Undo `claim` of a directory in which no stage has begun."""
        self.storage.delete_tree(MANIFEST.path)
        self.storage.delete(RUN_FILE)

    def _check_free(self) -> None:
        """Raise RunError if names that stages write are taken: they may be somebody's data."""
        folders = [folder for stage in STAGES for folder in folders_of(stage)]
        taken = [name for name in folders if self.storage.exists(name) or self.storage.list(name)]
        if taken:
            raise RunError(
                f"{self.root} is not a run ({RUN_FILE} is missing), but holds {', '.join(taken)}, which a run "
                "would write to; give an empty --out"
            )

    def run_file(self) -> dict[str, Any]:
        """Content of `run.yaml`. Raises RunError if this is no run."""
        try:
            data = self.storage.read_bytes(RUN_FILE)
        except FileNotFoundError:
            raise RunError(f"{self.root} is not a run: it has no {RUN_FILE}; `icce run` makes one") from None
        with self._reading(RUN_FILE, _OTHER_PLACE):
            content = {"created": None, "icce_ray": None, "versions": {}, "fingerprints": {}} | opened_yaml(data)
            maps = ("settings", "versions", "fingerprints")
            shaped(dict[str, dict[str, Any]], {name: content.get(name) for name in maps})
        return content

    def settings(self) -> Settings:
        """The settings the run was started with. Raises RunError if this version does not know them."""
        content = self.run_file()
        try:
            return _of_version(load(content["settings"] | {"out": self.root}), content)
        except SettingsError as error:
            raise RunError(
                f"{self.storage.uri(RUN_FILE)}, of icce-ray {content.get('icce_ray')}, has settings that icce-ray "
                f"{__version__} does not take:\n{error}\nuse the version that wrote it, or give another --out"
            ) from error

    def as_begun(self, settings: Settings) -> Settings:
        """Settings to go on with: what nobody gives is as the version that began the run had it."""
        if not self.storage.exists(RUN_FILE):
            return settings
        content = self.run_file()
        embed = settings.embed
        if embed.resize is None:  # was `squash` before models had a way of their own
            embed = embed.model_copy(update={"resize": content["settings"].get("embed", {}).get("resize")})
        return _of_version(settings.model_copy(update={"embed": embed}), content)

    def resolved(self, settings: Settings) -> Settings:
        """The settings with the numbers that stage `neighbors` found or chose, of several spaces in the joined one."""
        marker = self.marker("neighbors")
        return settings if marker is None else with_numbers(settings, marker.summary)

    def prediction_file(self) -> dict[str, str]:
        """Content of `prediction.yaml`: run, classifier, source, and how it is listed. RunError if it is damaged."""
        with self._reading(PREDICTION_FILE, _OTHER_PLACE):
            content = dict.fromkeys(("run", "classifier", "source")) | opened_yaml(
                self.storage.read_bytes(PREDICTION_FILE)
            )
            return shaped(dict[str, str], content)

    def _is_update(self) -> bool:
        return self.storage.full_path().split("/")[-2:-1] == [UPDATES]

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

    def write_run_file(self, settings: Settings, fingerprints: dict[str, str]) -> None:
        """Write `run.yaml`, which says what the directory is bound to."""
        content = {
            "icce_ray": __version__,
            "created": now(),
            "settings": settings.model_dump(mode="json"),
            "fingerprints": fingerprints,
            "versions": {"python": platform.python_version()}
            | {name: _installed(name) for name in (*_PACKAGES, *_PARTITIONERS)},
        }
        self.storage.write_bytes(RUN_FILE, sealed_yaml(content))

    def report(self) -> str | None:
        """Path or URI of the page about the run, None if there is none."""
        return self.storage.uri(REPORT) if self.storage.exists(REPORT) else None

    # -- figures -----------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Every figure of the run so far, stage by stage. Raises RunError if they cannot be read."""
        try:
            data = self.storage.read_bytes(METRICS_FILE)
        except FileNotFoundError:
            return {}
        again = "delete it: figures of stages are in their markers too, and `icce evaluate` makes scores again"
        with self._reading(METRICS_FILE, again):
            content = opened_json(data)
            for section, figures in content.items():
                check_figures(section, figures)
        return content

    def record(self, section: str, figures: dict[str, Any]) -> None:
        """Set one section of `metrics.json`."""
        self.storage.write_bytes(METRICS_FILE, sealed_json(self.metrics() | {section: figures}))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _of_version(settings: Settings, run_file: dict[str, Any]) -> Settings:
    """Settings with the paper's values where the run is of a version whose defaults these were."""
    return settings if "components" in run_file["settings"].get("neighbors", {}) else with_papers(settings)


def marker_path(stage: str) -> str:
    """Where the marker of a stage stands."""
    return f"{STAGES[stage].folder}/{MARKER}"
