"""Manifest, features and rejects: every listed image is there once, under its own name, with a usable feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.stages.verify.reading import NAMES, Manifest, Unfit, columns, is_matrix, rows
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import FEATURES, REJECTS


def check_manifest(manifest: Manifest, marker: Marker) -> Iterator[str]:
    """image_ids are 0, 1, ... in order, as many as the marker says."""
    try:
        for path, first, part in manifest.parts():
            if not np.array_equal(part["image_id"].to_numpy(), np.arange(first, first + len(part))):
                yield f"list: {path} has image_ids that are not {first} to {first + len(part) - 1} in order"
            for name in part.column_names:
                if part[name].null_count:
                    yield f"list: {path} has {part[name].null_count} rows without {name!r}"
            if not set(NAMES) <= set(part.column_names):
                yield f"list: {path} has no column {[name for name in NAMES if name not in part.column_names]}"
    except Unfit as error:
        yield str(error)
        return
    if len(manifest) != marker.summary["images"]:
        yield f"list: {len(manifest)} images in its files, {marker.summary['images']} in its marker"


def check_features(store: Store, marker: Marker, manifest: Manifest, ids: list[np.ndarray]) -> Iterator[str]:
    """Width, finiteness and names of every shard; puts the ids of accepted images into `ids` if all can be used."""
    summary = marker.summary
    accepted: list[np.ndarray] = [np.empty(0, np.int64)]
    refused: list[np.ndarray] = [np.empty(0, np.int64)]
    reasons: Counter[str] = Counter()
    whole = usable = True
    for info in REJECTS.files(marker.files):
        try:
            table = columns(store, "embed", info.path, image_id=pa.types.is_int64, reason=pa.types.is_string)
        except Unfit as error:
            whole = False
            yield str(error)
            continue
        reasons.update(table["reason"].to_pylist())
        refused.append(table["image_id"].to_numpy())
        yield from check_names("embed", info.path, table, manifest)
    for info in FEATURES.files(marker.files):
        try:
            table = _shard(store, info.path, summary)
        except Unfit as error:
            whole = False
            yield str(error)
            continue
        accepted.append(table["image_id"].to_numpy())
        for name in ("features", "cls_blocks"):
            if name in table.column_names and len(table):
                values = rows(table[name])
                if not np.isfinite(values).all() or not values.any(axis=1).all():
                    usable = False
                    yield f"embed: {info.path} has {name} that are zero or not finite"
        yield from check_names("embed", info.path, table, manifest)
    if not whole:
        return
    wrong = list(wrong_ids("embed", np.concatenate(accepted), np.concatenate(refused), len(manifest)))
    yield from wrong
    yield from check_counts("embed", summary, sum(map(len, accepted)), reasons)
    if usable and not wrong:
        ids.append(np.concatenate(accepted))


def _shard(store: Store, path: str, summary: dict[str, Any]) -> pa.Table:
    kinds = {"image_id": pa.types.is_int64, "features": is_matrix(pa.types.is_float16)}
    if summary.get("block_dim"):
        kinds["cls_blocks"] = is_matrix(pa.types.is_float16)
    table = columns(store, "embed", path, **kinds)
    for name, dim in (("features", summary["dim"]), ("cls_blocks", summary.get("block_dim"))):
        if name in kinds and table[name].type.list_size != dim:
            raise Unfit(f"embed: {path} has {table[name].type.list_size} {name}, not {dim}")
    return table


def check_names(stage: str, path: str, table: pa.Table, manifest: Manifest) -> Iterator[str]:
    """The rows have the names that the manifest gives their image_ids; ids that it does not list are told elsewhere."""
    missing = [name for name in NAMES if name not in table.column_names]
    if missing:
        yield f"{stage}: {path} has no column {missing}"
        return
    ids = table["image_id"].to_numpy()
    known = (ids >= 0) & (ids < len(manifest))
    wrong = manifest.misnamed(table.filter(pa.array(known)))
    if len(wrong):
        yield f"{stage}: {path} has {len(wrong)} images under another name than the manifest's, the first {wrong[0]}"


def check_counts(stage: str, summary: dict[str, Any], accepted: int, reasons: Counter[str]) -> Iterator[str]:
    """What the marker counts is what its files hold."""
    found = {"ok": accepted, "rejected": reasons.total(), "rejected_by_reason": dict(reasons)}
    for name, value in found.items():
        if summary.get(name) != value:
            yield f"{stage}: its marker says {name} = {summary.get(name)}, its files hold {value}"


def wrong_ids(stage: str, accepted: np.ndarray, refused: np.ndarray, inputs: int) -> Iterator[str]:
    """Every input is there once, as ok or as reject."""
    every = np.concatenate([accepted, refused])
    distinct = len(np.unique(every))
    if len(every) != inputs:
        yield f"{stage}: {inputs} inputs, but {len(accepted)} ok and {len(refused)} rejected"
    if distinct != len(every):
        yield f"{stage}: {len(every) - distinct} image_ids are there twice"
    elif (np.diff(accepted) < 0).any():
        yield f"{stage}: image_ids do not ascend over the files in the order of their names"
    if len(every) and (every.min() < 0 or every.max() >= inputs):
        yield f"{stage}: image_ids span [{every.min()}, {every.max()}], outside [0, {inputs})"


def same_ids(name: str, found: np.ndarray, ids: np.ndarray, of: str = "features") -> Iterator[str]:
    """A later artifact is of the images of `of`, the features or the sample, in their order."""
    if not np.array_equal(found, ids):
        extra, missing = len(np.setdiff1d(found, ids)), len(np.setdiff1d(ids, found))
        yield (
            f"{name}: image_ids are not those of the {of} in order: {missing} missing, {extra} extra, {len(found)} rows"
        )
