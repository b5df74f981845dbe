"""`icce verify`: the invariants of what a run has written, checked on the files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from icce_ray.adapters.locations import StorageError
from icce_ray.settings import Settings
from icce_ray.stages.rows import OK, REJECT, matrix
from icce_ray.store import ARTIFACTS, FURTHER_ARTIFACTS, Marker, RunError, Store, fingerprint

#: Artifacts of labels: their stage, the column, and the start of their files' names.
LABELS = (
    ("heads", "labels", "head_labels/"),
    ("consensus", "label", "consensus/"),
    ("predict", "label", "predictions/"),
)


def violations(store: Store) -> Iterator[str]:
    """One line for each violation: checksums, counts, ids, dimensions, neighbour lists, label ranges, markers.

    What hangs on something broken is not looked at: mend the first lines first. Raises RunError if the directory is
    no run.
    """
    settings = store.settings()
    markers: dict[str, Marker] = {}
    broken = False
    for line in _markers(store, settings, markers):
        broken = True
        yield line
    for line in _files(store, markers):
        broken = True
        yield line
    if broken or "embed" not in markers:
        return
    lines, ids = _features(store, markers)
    yield from lines
    if ids is None:
        return
    if "neighbors" in markers:
        yield from _neighbors(store, markers["neighbors"], ids, settings.neighbors.mode)
    for stage, column, prefix in LABELS:
        if stage in markers:
            yield from _labels(store, markers[stage], prefix, column, ids, settings.clusters)


def _markers(store: Store, settings: Settings, markers: dict[str, Marker]) -> Iterator[str]:
    """Fill `markers` with those of complete stages; each must be of these settings and follow complete stages."""
    missing = []
    for stage in ARTIFACTS:
        try:
            marker = store.marker(stage)
        except RunError as error:
            yield f"{stage}: {error}"
            continue
        if marker is None:
            missing.append(stage)
            continue
        markers[stage] = marker
        expected = fingerprint(settings, stage)
        if marker.fingerprint != expected:
            yield f"{stage}: its marker has fingerprint {marker.fingerprint}, the settings give {expected}"
        if missing:
            yield f"{stage}: complete, but {', '.join(missing)} before it is not"


def _files(store: Store, markers: dict[str, Marker]) -> Iterator[str]:
    """Every file of a marker is there with its bytes; no shard lies beside that no marker knows."""
    for stage, marker in markers.items():
        for info in marker.files:
            try:
                found = store.storage.describe(info.path)
            except FileNotFoundError:
                yield f"{stage}: {info.path} is missing"
                continue
            except StorageError as error:
                yield f"{stage}: {error}"
                continue
            if found != info:
                now, then = (
                    f"{'' if one.rows is None else f'{one.rows} rows, '}{one.bytes} bytes, sha256 {one.sha256[:12]}"
                    for one in (found, info)
                )
                yield f"{stage}: {info.path} has {now}; written were {then}"
        known = {info.path for info in marker.files}
        for artifact in (ARTIFACTS[stage], *FURTHER_ARTIFACTS.get(stage, ())):
            for name, _ in store.storage.list(artifact):
                if name.endswith(".parquet") and name not in known:
                    yield f"{stage}: {name} is in no marker"


def _features(store: Store, markers: dict[str, Marker]) -> tuple[list[str], np.ndarray | None]:
    """Lines, and the ids of the accepted images in order. Every input is there once, as ok or as reject.

    The ids are None where they are wrong.
    """
    lines, ok, reject = [], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    summary = markers["embed"].summary
    for info in markers["embed"].rows_of(REJECT):
        reject.append(store.storage.read_table(info.path, ["image_id"])["image_id"].to_numpy())
    for info in markers["embed"].rows_of(OK):
        table = store.storage.read_table(info.path, ["image_id", "features"])
        ok.append(table["image_id"].to_numpy())
        features = matrix(table["features"]) if len(table) else np.ones((0, summary["dim"]))
        if features.shape[1] != summary["dim"]:
            lines.append(f"embed: {info.path} has {features.shape[1]} features, not {summary['dim']}")
        if not np.isfinite(features).all() or not features.any(axis=1).all():
            lines.append(f"embed: {info.path} has features that are zero or not finite")
    wrong = list(_wrong_ids(np.concatenate(ok), np.concatenate(reject), markers["list"].summary["images"]))
    return [*lines, *wrong], None if wrong else np.concatenate(ok)


def _wrong_ids(accepted: np.ndarray, rejected: np.ndarray, inputs: int) -> Iterator[str]:
    every = np.concatenate([accepted, rejected])
    distinct = len(np.unique(every))
    if len(every) != inputs:
        yield f"embed: {inputs} inputs, but {len(accepted)} ok and {len(rejected)} rejected"
    if distinct != len(every):
        yield f"embed: {len(every) - distinct} image_ids are there twice"
    elif (np.diff(accepted) < 0).any():
        yield "embed: image_ids do not ascend over the files in the order of their names"
    if len(every) and (every.min() < 0 or every.max() >= inputs):
        yield f"embed: image_ids span [{every.min()}, {every.max()}], outside [0, {inputs})"


def _neighbors(store: Store, marker: Marker, ids: np.ndarray, mode: str) -> Iterator[str]:
    seen = [np.empty(0, np.int64)]
    limits = marker.summary
    fewest = min(limits["k_min"], len(ids) - 1)
    for info in marker.files:
        table = store.storage.read_table(info.path).combine_chunks()
        if not len(table):
            continue
        own = table["image_id"].to_numpy()
        seen.append(own)
        offsets, neighbor = _lists(table["neighbor_ids"].chunk(0))
        offsets_too, similarity = _lists(table["similarities"].chunk(0))
        if not np.array_equal(offsets, offsets_too):
            yield f"neighbors: {info.path} has lists of neighbours and of similarities that differ in length"
            continue
        counts = np.diff(offsets)
        row = np.repeat(np.arange(len(own)), counts)
        rank = np.arange(len(row)) - offsets[row]
        place = np.minimum(np.searchsorted(ids, neighbor), len(ids) - 1)
        if (ids[place] != neighbor).any():
            yield f"neighbors: {info.path} names images that have no features"
        elif len(np.unique(row * len(ids) + place)) != len(row):
            yield f"neighbors: {info.path} has a neighbour twice in one list"
        if (neighbor == own[row]).any():
            yield f"neighbors: {info.path} has an image among its own neighbours"
        if (~(np.diff(similarity) <= 0) & (np.diff(row) == 0)).any():  # a NaN is not in order either
            yield f"neighbors: {info.path} has lists that are not descending"
        if mode != "ground_truth":
            if (counts < fewest).any() or (counts > limits["k_max"]).any():
                yield f"neighbors: {info.path} has lists outside k_min {fewest} to k_max {limits['k_max']}"
            if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
                yield f"neighbors: {info.path} has neighbours beyond k_min below the threshold {limits['threshold']}"
    yield from _same_ids("neighbors", np.concatenate(seen), ids)


def _lists(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from 0, and the values of all lists one after another."""
    offsets = column.offsets.to_numpy()
    return offsets - offsets[0], column.flatten().to_numpy()


def _labels(store: Store, marker: Marker, prefix: str, column: str, ids: np.ndarray, clusters: int) -> Iterator[str]:
    seen, artifact = [np.empty(0, np.int64)], prefix.rstrip("/")
    for info in marker.rows_of(f"{prefix}part-"):
        table = store.storage.read_table(info.path, ["image_id", column])
        seen.append(table["image_id"].to_numpy())
        if table[column].null_count:
            yield f"{artifact}: {info.path} has {table[column].null_count} images without a label"
        elif len(table):
            values = table[column].to_numpy() if column == "label" else matrix(table[column])
            if values.min() < 0 or values.max() >= clusters:
                yield f"{artifact}: {info.path} has labels in [{values.min()}, {values.max()}], outside [0, {clusters})"
    yield from _same_ids(artifact, np.concatenate(seen), ids)


def _same_ids(name: str, found: np.ndarray, ids: np.ndarray) -> Iterator[str]:
    if not np.array_equal(found, ids):
        extra, missing = len(np.setdiff1d(found, ids)), len(np.setdiff1d(ids, found))
        yield (
            f"{name}: image_ids are not those of the features in order: {missing} missing, {extra} extra, "
            f"{len(found)} rows"
        )
