"""Part `duplicates` of stage `inspect`: exact copies among all images, near ones among those that have neighbours.

Exact copies have equal digests (where a run has none, equal features), which tasks share out by their first bytes: none
sees more than its part, whatever the number of images. Near ones are among the neighbours of the images that heads
learn from. What grows with the images in one place is but the scales of neighbour lists and what is a duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core import duplicates as core
from icce_ray.core.picture_hash import HASH_BYTES, differing
from icce_ray.io.storage import ColumnError, FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed, room_for
from icce_ray.stages.features import FeatureRows, matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import DUPLICATE_PAIRS, DUPLICATES, NEIGHBORS
from icce_ray.store.views import spaces_of

#: Files of a task and, where it writes, of one of its own.
FILES = 64
#: Images whose digests one task compares: some 200 MB.
PARTITION_IMAGES = 4_000_000
#: Pairs that are kept for the report, and bars of its histogram.
PAIRS, BARS = 20_000, 50
#: Of a picture, as 32 bytes.
HASH = "picture_hash"


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Find and write them; figures with the limit, what was compared, and how near images are to their nearest."""
    del resources
    rows = FeatureRows.of(store)
    features = batches([info.path for info in rows.files])
    lists = NEIGHBORS.of(spaces_of(store.require("embed").summary)[-1])
    neighbors = batches([info.path for info in lists.files(store.require("neighbors").files)])
    pairing, grouping = cast("Any", _near).options(num_returns=2), cast("Any", _grouped).options(num_returns=2)
    near, wanted = pairing.remote(*_each(_lists, store.root, neighbors))
    witnesses = _each(_hashes, store.root, features, wanted)
    equal = _equal_images(store.root, features, len(rows))
    asked = settings.inspect.duplicates
    limit = None if asked == "auto" else 1.0 - asked
    found, figures = grouping.remote(store.root, near, limit, witnesses, equal)
    tasks = (_write.remote(store.root, paths, number, found) for number, paths in enumerate(features))
    files = list(completed(tasks, room_for(0.5)))
    pairs, summary = ray.get(figures)
    compared = FeatureRows.training(store)
    if len(compared) < len(rows):
        progress.log(
            f"near-duplicates are sought among the {len(compared):,} images that were drawn, exact ones among all"
        )
    return [*files, pairs], summary | {"compared": len(compared), "images": len(rows)}


def batches(paths: Sequence[str]) -> list[Sequence[str]]:
    """Files for each task, the same ones whatever the cluster."""
    return [paths[start : start + FILES] for start in range(0, len(paths), FILES)]


def _each(task: Any, root: str, groups: Sequence[Sequence[str]], *others: Any) -> list[Any]:
    return [task.remote(root, paths, *others) for paths in groups]


# -- near ones -----------------------------------------------------------------------------------------------------


class _Lists(NamedTuple):
    """Of some neighbour lists: image_ids, scales, the nearest; and pairs that may be near, with their cosines."""

    ids: np.ndarray
    scale: np.ndarray
    nearest: np.ndarray
    nearest_cosine: np.ndarray
    pairs: np.ndarray
    cosine: np.ndarray


class _Near(NamedTuple):
    """Pairs of image_ids [m, 2] with their relative distances; image_ids and the distance to their nearest."""

    pairs: np.ndarray
    distance: np.ndarray
    ids: np.ndarray
    nearest: np.ndarray


@ray.remote(num_cpus=0.5)
def _lists(root: str, paths: Sequence[str]) -> _Lists:
    """What is to be known of some files of lists; whoever is the nearer for its place has the pair in its list."""
    storage = Store(root).storage
    table = pa.concat_tables(
        [storage.read_table(path, ["image_id", "neighbor_ids", "similarities"]) for path in paths]
    ).combine_chunks()
    ids = table["image_id"].to_numpy()
    columns = [table[name].combine_chunks() for name in ("neighbor_ids", "similarities")]
    offsets = columns[0].offsets.to_numpy() - columns[0].offsets[0].as_py()
    other, cosine = (column.flatten().to_numpy(zero_copy_only=False) for column in columns)
    filled = np.flatnonzero(np.diff(offsets))  # of true classes, an image may have no neighbour
    starts, own = offsets[:-1][filled], np.repeat(np.arange(len(ids)), np.diff(offsets))
    scale = np.ones(len(ids), np.float32)
    scale[filled] = core.scales(offsets[np.append(filled, len(ids))], cosine) if len(filled) else 0
    may = np.flatnonzero(1.0 - cosine <= core.CANDIDATE * core.floored(scale)[own]) if len(filled) else filled
    pairs = np.stack([ids[own[may]], other[may]], axis=1)
    return _Lists(ids[filled], scale[filled], other[starts], cosine[starts], pairs, cosine[may])


@ray.remote(num_cpus=1)
def _near(*parts: _Lists) -> tuple[_Near, np.ndarray]:
    """Each pair once, if it may be a duplicate; and the image_ids that are in one."""
    every = _Lists(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    scale = core.floored(every.scale) if len(every.ids) else every.scale

    def distances(one: np.ndarray, other: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        places = (np.minimum(np.searchsorted(every.ids, ids), len(every.ids) - 1) for ids in (one, other))
        return core.relative(cosine, *(scale[place] for place in places))

    nearest = distances(every.ids, every.nearest, every.nearest_cosine)
    pairs, first = np.unique(np.sort(every.pairs, axis=1), axis=0, return_index=True)
    distance = distances(pairs[:, 0], pairs[:, 1], every.cosine[first])
    kept = distance <= core.CANDIDATE
    return _Near(pairs[kept], distance[kept], every.ids, nearest), np.unique(pairs[kept])


@ray.remote(num_cpus=0.5)
def _hashes(root: str, paths: Sequence[str], wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """image_ids, of those wanted, that have a hash, and the hashes uint8[n, bytes]."""
    ids, hashes = [np.empty(0, np.int64)], [np.empty((0, HASH_BYTES), np.uint8)]
    for path in paths:
        table = columns_of(root, path, ["image_id", HASH])
        if HASH in table.column_names:
            table = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), wanted)))
            ids.append(table["image_id"].to_numpy())
            joined = b"".join(table[HASH].to_pylist())
            hashes.append(np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES))
    return np.concatenate(ids), np.concatenate(hashes)


# -- exact ones ----------------------------------------------------------------------------------------------------


def _equal_images(root: str, groups: Sequence[Sequence[str]], images: int) -> list[Any]:
    """References to (image_ids that have an equal one, the least image_id of these), a partition each."""
    partitions = -(-images // PARTITION_IMAGES)
    shares = [_digests.options(num_returns=partitions).remote(root, paths, partitions) for paths in groups]
    columns = [shares] if partitions == 1 else zip(*shares, strict=True)
    return [_equal.remote(*column) for column in columns]


@ray.remote(num_cpus=0.5)
def _digests(root: str, paths: Sequence[str], partitions: int) -> Any:
    """Digests of some files as [n, 3]: two words and the image_id; by partition, if there are several."""
    found = [np.empty((0, 3), np.int64)]
    for path in paths:
        table = columns_of(root, path, ["image_id", "digest"])
        if "digest" in table.column_names:
            digests = table["digest"].to_pylist()
        else:
            values = matrix(Store(root).storage.read_table(path, ["features"])["features"])
            digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in values]
        words = np.frombuffer(b"".join(digests), np.int64).reshape(-1, 2)
        found.append(np.column_stack([words, table["image_id"].to_numpy()]))
    every = np.concatenate(found)
    share = every[:, 0] % partitions
    return every if partitions == 1 else [every[share == number] for number in range(partitions)]


@ray.remote(num_cpus=0.5)
def _equal(*parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    every = np.concatenate(parts)
    every = every[np.lexsort(every.T[::-1])]
    new = np.append(True, (every[1:, :2] != every[:-1, :2]).any(axis=1))
    run, starts = np.cumsum(new) - 1, np.flatnonzero(new)
    several = np.bincount(run, minlength=len(starts))[run] > 1
    return every[several, 2], every[starts[run[several]], 2]


# -- groups --------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=1)
def _grouped(root: str, near: _Near, limit: float | None, witnesses: list[Any], equal: list[Any]) -> Any:
    """The duplicates as a table by image_id; the file of pairs, and figures."""
    ids, hashes = (np.concatenate(column) for column in zip(*ray.get(witnesses), strict=True))
    near, hashed = _with_hashes(near, ids, hashes), len(ids) > 0
    copies, firsts = (np.concatenate(column) for column in zip(*ray.get(equal), strict=True))
    chosen = limit if limit is not None else core.limit_of(near.nearest) if len(near.nearest) else 0.0
    ids = np.unique(np.concatenate([near.pairs.ravel(), copies]))
    pairs = np.searchsorted(ids, np.concatenate([near.pairs, np.column_stack([copies, firsts])]))
    distance = np.concatenate([near.distance, np.zeros(len(copies), np.float32)])
    group = core.grouped(pairs, distance, len(ids), chosen)
    inside = group[pairs[:, 0]] == group[pairs[:, 1]]
    similarity, exact = np.zeros(len(ids), np.float32), np.isin(ids, copies)
    for side in (0, 1):
        np.maximum.at(similarity, pairs[inside, side], np.clip(1.0 - distance[inside], 0, 1))
    kept = np.bincount(group, minlength=len(ids))[group] > 1
    kind = np.where(exact, "exact", "near")
    table = pa.table(
        {
            "image_id": ids[kept],
            "group": ids[group[kept]],
            "kind": pa.array(kind[kept].tolist(), pa.string()),
            "similarity": similarity[kept],
        }
    )
    figures = {"limit": round(1.0 - chosen, 4), "chosen": limit is not None, "groups": len(np.unique(group[kept]))}
    figures |= {name: int((kind[kept] == name).sum()) for name in ("exact", "near")}
    counts, _ = np.histogram(np.clip(1.0 - near.nearest, 0, 1), bins=BARS, range=(0, 1))
    return table, (_write_pairs(root, near, copies), figures | {"hashed": hashed, "histogram": counts.tolist()})


def _with_hashes(near: _Near, ids: np.ndarray, hashes: np.ndarray) -> _Near:
    """Distances as far as hashes are known; those to the nearest follow."""
    distance, nearest = near.distance.copy(), near.nearest.copy()
    if len(ids):
        places = np.minimum(np.searchsorted(ids, near.pairs), len(ids) - 1)
        known = np.flatnonzero((ids[places] == near.pairs).all(axis=1))
        one, other = places[known].T
        distance[known] = core.witnessed(distance[known], differing(hashes[one], hashes[other]))
    for side in (0, 1):
        np.minimum.at(nearest, np.searchsorted(near.ids, near.pairs[:, side]), distance)
    return near._replace(distance=distance, nearest=nearest)


def _write_pairs(root: str, near: _Near, copies: np.ndarray) -> FileInfo:
    """The most alike, but for those of which both are exact copies, of one image or of two."""
    open_ = np.flatnonzero(~np.isin(near.pairs, copies).all(axis=1))
    order = open_[np.argsort(near.distance[open_], kind="stable")[:PAIRS]]
    one, other = near.pairs[order].T
    similarity = np.clip(1.0 - near.distance[order], 0, 1).astype(np.float32)
    return DUPLICATE_PAIRS.write(
        Store(root).storage, pa.table({"image_id": one, "other": other, "similarity": similarity})
    )


@ray.remote(num_cpus=0.5)
def _write(root: str, paths: Sequence[str], number: int, found: pa.Table) -> FileInfo:
    """The duplicates among the images of some files of features, with their names."""
    storage, ids = Store(root).storage, found["image_id"].to_numpy()
    table = pa.concat_tables([storage.read_table(path, ["image_id", "uri", "key"]) for path in paths])
    table = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids))).combine_chunks()
    rows = found.take(pa.array(np.searchsorted(ids, table["image_id"].to_numpy())))
    for name in ("group", "kind", "similarity"):
        table = table.append_column(name, rows[name])
    return DUPLICATES.write(storage, table, number)


def columns_of(root: str, path: str, names: Sequence[str]) -> pa.Table:
    """Those of some columns of features that a file has: what is measured of pictures not all of them have."""
    try:
        return Store(root).storage.read_table(path, names)
    except ColumnError:
        return Store(root).storage.read_table(path, names[:1])
