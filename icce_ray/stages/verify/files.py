"""Markers, files and figures: that they are there, are those that were written, and belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from icce_ray.documents import DocumentError
from icce_ray.io.locations import StorageError
from icce_ray.settings import Settings
from icce_ray.store import Marker, RunError, Store, fingerprint
from icce_ray.store.artifacts import METRICS_FILE, RUN_FILE, STAGES, folders_of
from icce_ray.store.seals import opened_yaml


def check_markers(
    store: Store, stages: list[str], expected: dict[str, str], markers: dict[str, Marker]
) -> Iterator[str]:
    """Fill `markers` with those of complete stages; each must have its fingerprint and follow complete stages."""
    missing = []
    for stage in stages:
        try:
            marker = store.marker(stage)
        except RunError as error:
            yield f"{stage}: {error}"
            missing.append(stage)
            continue
        if marker is None:
            missing.append(stage)
            continue
        markers[stage] = marker
        if marker.fingerprint != expected[stage]:
            yield f"{stage}: its marker has fingerprint {marker.fingerprint}, the settings give {expected[stage]}"
        lacking = [name for name in STAGES[stage].figures if name not in marker.summary]
        if lacking:
            yield f"{stage}: its marker says nothing of {', '.join(lacking)}"
        if missing:
            yield f"{stage}: complete, but {', '.join(missing)} before it is not"


def other_stages(store: Store) -> list[str]:
    """Stages that either run.yaml or this version knows, and not the other."""
    noted = store.run_file().get("fingerprints")
    return [] if not isinstance(noted, dict) else sorted(set(noted) ^ set(STAGES))


def check_run_file(store: Store, settings: Settings) -> Iterator[str]:
    """run.yaml is as it was written, and the fingerprints that it notes are those of its settings."""
    yield from check_seal(store, RUN_FILE)
    noted = store.run_file().get("fingerprints")
    noted = noted if isinstance(noted, dict) else {}
    for stage in STAGES:
        expected = fingerprint(settings, stage)
        if noted.get(stage) != expected:
            yield f"{RUN_FILE}: notes fingerprint {noted.get(stage)} for stage {stage}, its settings give {expected}"


def check_seal(store: Store, path: str) -> Iterator[str]:
    """A YAML file that holds its own checksum, which files of earlier versions do not, was not changed since."""
    try:
        opened_yaml(store.storage.read_bytes(path), strict=True)
    except DocumentError as error:
        yield f"{path}: {error}"


def check_metrics(store: Store, markers: dict[str, Marker]) -> Iterator[str]:
    """Figures of a stage in metrics.json are those of its marker; a killed run may have noted none of the last one."""
    try:
        metrics = store.metrics()
    except RunError as error:
        yield f"run: {error}"
        return
    for stage, marker in markers.items():
        figures = metrics.get(stage)
        if figures is None:
            continue
        found = {name: value for name, value in figures.items() if name != "seconds"}
        differs = sorted(name for name in found | marker.summary if found.get(name) != marker.summary.get(name))
        if differs:
            yield f"run: {METRICS_FILE} has other figures of {stage} than its marker: {', '.join(differs)}"


def check_files(
    store: Store, markers: dict[str, Marker], artifacts: dict[str, tuple[str, ...]] | None = None
) -> Iterator[str]:
    """Every file of a marker is there with its bytes; no shard lies beside that no marker knows.

    What a killed attempt leaves beside them is no shard and read by nobody: unfinished writes (temporary names, which
    a listing leaves out) and checkpoints.
    """
    for stage, marker in markers.items():
        own = artifacts[stage] if artifacts else folders_of(stage)
        times = Counter(info.path for info in marker.files)
        for path, count in times.items():
            if count > 1:
                yield f"{stage}: its marker lists {path} {count} times"
            if not path.startswith(tuple(f"{artifact}/" for artifact in own)):
                yield f"{stage}: its marker lists {path}, which is none of its files"
        for info in {info.path: info for info in marker.files}.values():
            try:
                found = store.storage.describe(info.path)
            except FileNotFoundError:
                yield f"{stage}: {info.path} is missing"
                continue
            except (StorageError, ValueError) as error:
                yield f"{stage}: {error}"
                continue
            if found != info:
                now, then = (
                    f"{'' if one.rows is None else f'{one.rows} rows, '}{one.bytes} bytes, sha256 {one.sha256[:12]}"
                    for one in (found, info)
                )
                yield f"{stage}: {info.path} has {now}; written were {then}"
        for artifact in own:
            for name, _ in store.storage.list(artifact):
                if name.endswith(".parquet") and name not in times:
                    yield f"{stage}: {name} is in no marker"
