"""`icce verify`: the invariants of what a run has written, checked on the files themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from icce_ray.adapters.locations import StorageError
from icce_ray.settings import Settings
from icce_ray.stages import heads
from icce_ray.stages.rows import OK, REJECT, matrix
from icce_ray.store import ARTIFACTS, Marker, Store, fingerprint


def violations(store: Store) -> Iterator[str]:
    """One line for each violation: checksums, counts, ids, dimensions, neighbour lists, label ranges, markers.

    Raises RunError if the directory is no run.
    """
    settings = store.settings()
    markers = {stage: marker for stage in ARTIFACTS if (marker := store.marker(stage)) is not None}
    yield from _markers(settings, markers)
    whole = True
    for line in _files(store, markers):
        whole = False
        yield line
    if not whole:
        return  # what the files hold means nothing before they are whole
    ids = None
    if "embed" in markers:
        lines, ids = _features(store, markers)
        yield from lines
    if ids is None:
        return
    if "neighbors" in markers:
        yield from _neighbors(store, markers["neighbors"], ids, settings.neighbors.mode)
    if "heads" in markers:
        yield from _labels(store, markers["heads"], heads.LABELS, "labels", ids, settings.clusters)
    if "consensus" in markers:
        yield from _labels(store, markers["consensus"], ARTIFACTS["consensus"], "label", ids, settings.clusters)
    if "predict" in markers:
        yield from _labels(store, markers["predict"], ARTIFACTS["predict"], "label", ids, settings.clusters)


def _markers(settings: Settings, markers: dict[str, Marker]) -> Iterator[str]:
    order = list(ARTIFACTS)
    for stage, marker in markers.items():
        if marker.fingerprint != fingerprint(settings, stage):
            expected = fingerprint(settings, stage)
            yield f"{stage}: its marker has fingerprint {marker.fingerprint}, the settings give {expected}"
        missing = [earlier for earlier in order[: order.index(stage)] if earlier not in markers]
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
                now, then = (f"{one.bytes} bytes, sha256 {one.sha256[:12]}" for one in (found, info))
                yield f"{stage}: {info.path} has {now}; written were {then}"
        known = {info.path for info in marker.files}
        for artifact in {path.rsplit("/", 1)[0] for path in known}:
            for name, _ in store.storage.list(artifact):
                if name.endswith(".parquet") and name not in known:
                    yield f"{stage}: {name} is in no marker"


def _features(store: Store, markers: dict[str, Marker]) -> tuple[list[str], np.ndarray]:
    """Lines, and the ids of the accepted images in order. Every input is there once, as ok or as reject."""
    lines, ok, reject = [], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    summary = markers["embed"].summary
    for info in markers["embed"].files:
        if info.path.startswith(REJECT):
            reject.append(store.storage.read_table(info.path, ["image_id"])["image_id"].to_numpy())
        elif info.path.startswith(OK):
            table = store.storage.read_table(info.path)
            ok.append(table["image_id"].to_numpy())
            features = matrix(table["features"]) if len(table) else np.ones((0, summary["dim"]))
            if features.shape[1] != summary["dim"]:
                lines.append(f"embed: {info.path} has {features.shape[1]} features, not {summary['dim']}")
            if not np.isfinite(features).all() or not features.any(axis=1).all():
                lines.append(f"embed: {info.path} has features that are zero or not finite")
    accepted, rejected = np.concatenate(ok), np.concatenate(reject)
    every = np.concatenate([accepted, rejected])
    inputs = markers["list"].summary["images"] if "list" in markers else summary["images"]
    if len(every) != inputs:
        lines.append(f"embed: {inputs} inputs, but {len(accepted)} ok and {len(rejected)} rejected")
    if len(np.unique(every)) != len(every):
        lines.append(f"embed: {len(every) - len(np.unique(every))} image_ids are there twice")
    if len(every) and (every.min() < 0 or every.max() >= inputs):
        lines.append(f"embed: image_ids span [{every.min()}, {every.max()}], outside [0, {inputs})")
    return lines, accepted


def _neighbors(store: Store, marker: Marker, ids: np.ndarray, mode: str) -> Iterator[str]:
    seen = []
    limits = marker.summary
    fewest = min(limits["k_min"], len(ids) - 1)
    for info in marker.files:
        table = store.storage.read_table(info.path)
        own = table["image_id"].to_numpy()
        seen.append(own)
        lists = table["neighbor_ids"].combine_chunks()
        offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
        counts, neighbor = np.diff(offsets), lists.flatten().to_numpy()
        similarity = table["similarities"].combine_chunks().flatten().to_numpy()
        row = np.repeat(np.arange(len(own)), counts)
        rank = np.arange(len(row)) - offsets[row]
        if not np.isin(neighbor, ids).all():
            yield f"neighbors: {info.path} names images that have no features"
        if (neighbor == own[row]).any():
            yield f"neighbors: {info.path} has an image among its own neighbours"
        if len(np.unique(np.stack([row, neighbor]), axis=1).T) != len(row):
            yield f"neighbors: {info.path} has a neighbour twice in one list"
        rising = (np.diff(similarity) > 0) & (np.diff(row) == 0)
        if rising.any():
            yield f"neighbors: {info.path} has lists that are not descending"
        if mode != "ground_truth":
            if (counts < fewest).any() or (counts > limits["k_max"]).any():
                yield f"neighbors: {info.path} has lists outside k_min {fewest} to k_max {limits['k_max']}"
            if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
                yield f"neighbors: {info.path} has neighbours beyond k_min below the threshold {limits['threshold']}"
    yield from _same_ids("neighbors", np.concatenate(seen), ids)


def _labels(store: Store, marker: Marker, artifact: str, column: str, ids: np.ndarray, clusters: int) -> Iterator[str]:
    seen = []
    for info in marker.rows_of(f"{artifact}/part-"):
        table = store.storage.read_table(info.path, ["image_id", column])
        seen.append(table["image_id"].to_numpy())
        if not len(table):
            continue
        values = table[column].to_numpy() if column == "label" else matrix(table[column])
        if values.min() < 0 or values.max() >= clusters:
            yield f"{artifact}: {info.path} has labels in [{values.min()}, {values.max()}], outside [0, {clusters})"
    yield from _same_ids(artifact, np.concatenate([np.empty(0, np.int64), *seen]), ids)


def _same_ids(name: str, found: np.ndarray, ids: np.ndarray) -> Iterator[str]:
    if not np.array_equal(found, ids):
        extra, missing = len(np.setdiff1d(found, ids)), len(np.setdiff1d(ids, found))
        yield (
            f"{name}: image_ids are not those of the features in order: {missing} missing, {extra} extra, "
            f"{len(found)} rows"
        )
