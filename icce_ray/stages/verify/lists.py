"""Neighbour lists (paper 3.1): whose they are, their order and limits, and that a sample of them is true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.stages.features import FeatureRows
from icce_ray.stages.verify.images import same_ids
from icce_ray.stages.verify.reading import Unfit, columns, is_lists
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import NEIGHBORS

#: Pairs whose similarity is computed again, spread over all files; and how far it may be off: a search in half
#: precision has been seen to be off by 5e-4.
PAIRS, TOLERANCE = 1024, 2e-3


def check_lists(store: Store, marker: Marker, ids: np.ndarray, mode: str, of: str) -> Iterator[str]:
    """Each list on its own, then similarities of some pairs that are the same every time; `ids` are those of `of`."""
    seen = [np.empty(0, np.int64)]
    sample: list[tuple[str, np.ndarray]] = []
    generator = np.random.default_rng(0)
    files = NEIGHBORS.files(marker.files)
    share = -(-PAIRS // max(1, len(files)))
    for info in files:
        try:
            table = columns(
                store,
                "neighbors",
                info.path,
                image_id=pa.types.is_int64,
                neighbor_ids=is_lists(pa.types.is_int64),
                similarities=is_lists(pa.types.is_float32),
            )
        except Unfit as error:
            yield str(error)
            return
        if not len(table):
            continue
        own = table["image_id"].to_numpy()
        seen.append(own)
        offsets, neighbor = _lists(table["neighbor_ids"].chunk(0))
        offsets_too, similarity = _lists(table["similarities"].chunk(0))
        if not np.array_equal(offsets, offsets_too):
            yield f"neighbors: {info.path} has lists of neighbours and of similarities that differ in length"
            continue
        found = list(_faults(own, offsets, neighbor, similarity, ids, marker.summary, mode, of))
        yield from (f"neighbors: {info.path} {fault}" for fault in found)
        if not found:
            row = np.repeat(own, np.diff(offsets))
            chosen = generator.choice(len(row), min(share, len(row)), replace=False)
            pairs = np.stack([row[chosen], neighbor[chosen], similarity[chosen].astype(np.float64)])
            sample.append((info.path, pairs))
    wrong = list(same_ids("neighbors", np.concatenate(seen), ids, of))
    yield from wrong
    if not wrong:
        yield from _untrue(store, sample, ids)


def _faults(
    own: np.ndarray,
    offsets: np.ndarray,
    neighbor: np.ndarray,
    similarity: np.ndarray,
    ids: np.ndarray,
    limits: dict[str, Any],
    mode: str,
    of: str,
) -> Iterator[str]:
    """What is wrong with the lists of one file."""
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(own)), counts)
    rank = np.arange(len(row)) - offsets[row]
    place = np.minimum(np.searchsorted(ids, neighbor), len(ids) - 1)
    if (ids[place] != neighbor).any():
        yield f"names images that are not in the {of}"
    elif len(np.unique(row * len(ids) + place)) != len(row):
        yield "has a neighbour twice in one list"
    if (neighbor == own[row]).any():
        yield "has an image among its own neighbours"
    if (~(np.diff(similarity) <= 0) & (np.diff(row) == 0)).any() or not np.isfinite(similarity).all():
        yield "has lists that are not descending"
    if mode != "ground_truth":
        fewest = min(limits["k_min"], len(ids) - 1)
        if (counts < fewest).any() or (counts > limits["k_max"]).any():
            yield f"has lists outside k_min {fewest} to k_max {limits['k_max']}"
        if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
            yield f"has neighbours beyond k_min below the threshold {limits['threshold']}"


def _untrue(store: Store, sample: list[tuple[str, np.ndarray]], ids: np.ndarray) -> Iterator[str]:
    """Files of which sampled similarities are not the cosine of the two features."""
    if not sample:
        return
    wanted = np.unique(np.concatenate([pairs[:2].ravel() for _, pairs in sample]).astype(np.int64))
    unit = _unit_rows(store, np.searchsorted(ids, wanted))
    for path, pairs in sample:
        first, second = (np.searchsorted(wanted, side.astype(np.int64)) for side in pairs[:2])
        cosine = (unit[first] * unit[second]).sum(axis=1)
        off = abs(cosine - pairs[2])
        worst = int(off.argmax())
        if off[worst] > TOLERANCE:
            yield (
                f"neighbors: {path} has similarities that are not the cosine of the two features: of images "
                f"{int(pairs[0, worst])} and {int(pairs[1, worst])} it says {pairs[2, worst]:.4f}, the features give "
                f"{cosine[worst]:.4f} ({int((off > TOLERANCE).sum())} of {len(off)} looked at)"
            )


def _unit_rows(store: Store, wanted: np.ndarray) -> np.ndarray:
    """Unit features of some rows, float64; read shard by shard, so that no more than these are kept."""
    features = FeatureRows.training(store)
    kept = []
    for start, stop in features.blocks():
        inside = wanted[(wanted >= start) & (wanted < stop)] - start
        if len(inside):
            kept.append(features.features(start, stop)[inside].astype(np.float64))
    rows = np.concatenate(kept)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _lists(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from 0, and the values of all lists one after another; a null among similarities is not a number."""
    offsets = column.offsets.to_numpy()
    values = column.flatten()
    if values.null_count:
        values = values.fill_null(pa.scalar(-1 if pa.types.is_integer(values.type) else float("nan"), values.type))
    return offsets - offsets[0], values.to_numpy(zero_copy_only=False)
