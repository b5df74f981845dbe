"""The map of a page: places, classes and shares of its images, packed for `assets/map_points.js`."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.report.labels import Labelled
from icce_ray.report.pool import Section, cut
from icce_ray.report.sprites import spread, sprites
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, MAP, MAP_TRUTH

#: Places along the longer side of the map; both sides have one scale.
PLACES = 2**16
#: A share of 0 to 1 as whole numbers up to this one; the next says that there is none.
STEPS = 254
NO_SHARE, NO_CLASS = STEPS + 1, 2**16 - 1
Columns = dict[str, NDArray[Any]]


def map_section(store: Store, source: Labelled, progress: Progress) -> Section | None:
    """The images that stage `inspect` has placed; None for a run without a map.

    Labels and shares are those of `source`, read shard by shard; true classes those of `icce evaluate`, if any. The map
    has tiny pictures of its own.
    """
    marker = store.marker(MAP.stage)
    if marker is None or not MAP.files(marker.files):
        return None
    table = store.storage.read_table(MAP.path).sort_by("image_id")
    label = _read(store, source.files, table["image_id"].to_numpy(), "label")
    known = ~np.isnan(label)  # of a consensus without a classifier only those of the sample
    if not known.any():
        return None
    table = table.filter(pa.array(known))
    ids, names = table["image_id"].to_numpy(), None
    columns = {"label": label[known].astype(np.uint32)} | all_shares(store, source, ids)
    if (truth := true_classes(store, ids)) is not None:
        columns["truth"], names = truth
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    found = packed(ids, places, columns, list(zip(*(table[name].to_pylist() for name in ("uri", "key")), strict=True)))
    order = spread(found.pop("grid"))
    found |= {"of": int(source.sizes.sum()), "truth": names, "sprites": sprites(store, ids, order, progress)}
    return Section(found, np.empty(0, np.int64))


def packed(
    ids: NDArray[np.int64],
    places: NDArray[np.float32],
    columns: Mapping[str, NDArray[Any]],
    names: list[tuple[str, str]],
) -> dict[str, Any]:
    """Columns one after the other, compressed, with their names and types; those of the largest numbers first.

    Args:
        ids: int64[n], ascending; what is stored is the gap to the one before.
        places: float32[n, 2].
        columns: further ones, unsigned integers [n].
        names: uri and key of each image; a key that equals the uri is left out.

    Returns:
        `images`, `columns` [[name, type]], `packed` and `names` (base64 of gzip), and `grid`, the whole numbers that
        `places` became, uint16[n, 2].
    """
    grid = on_grid(places)
    gaps = np.diff(ids, prepend=0).astype(np.uint32)
    every: Columns = {"gaps": gaps, "x": grid[:, 0], "y": grid[:, 1], **columns}
    every = dict(sorted(every.items(), key=lambda item: -item[1].itemsize))
    shown = [[uri] if uri == key else [uri, key] for uri, key in names]
    return {
        "images": len(ids),
        "columns": [[name, str(column.dtype)] for name, column in every.items()],
        "packed": _packed(b"".join(column.tobytes() for column in every.values())),
        "names": _packed(json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()),
        "grid": grid,
    }


def on_grid(places: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Places [n, 2] as whole numbers, uint16; the longer side is filled, the shorter one lies in its middle."""
    low, high = places.min(axis=0).astype(np.float64), places.max(axis=0).astype(np.float64)
    scale = (PLACES - 1) / max(float((high - low).max()), 1e-9)
    middle = (PLACES - 1) / 2
    return np.round((places - (low + high) / 2) * scale + middle).clip(0, PLACES - 1).astype(np.uint16)


def all_shares(store: Store, source: Labelled, ids: NDArray[np.int64]) -> Columns:
    """uint8[n] by name, of some images, by the ascending `ids`: the share of their labels, and how many heads agree
    where there is a consensus on the image."""
    columns = {source.share: shares_of(store, source.files, ids, source.share)}
    consensus = store.marker(CONSENSUS.stage)
    if consensus is not None and source.share != "agreement":
        columns["agreement"] = shares_of(store, CONSENSUS.files(consensus.files), ids, "agreement")
    return columns


def shares_of(store: Store, files: Sequence[FileInfo], ids: NDArray[np.int64], name: str) -> NDArray[np.uint8]:
    """uint8[n], a column of shares in steps of 1/254; 255 for images that the files do not have."""
    share = _read(store, files, ids, name)
    return np.where(np.isnan(share), NO_SHARE, np.round(STEPS * np.nan_to_num(share))).astype(np.uint8)


def _read(store: Store, files: Sequence[FileInfo], ids: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    """float64[n], NaN for images that the files do not have."""
    values = np.full(len(ids), np.nan)
    for info in files if len(ids) else ():
        table = store.storage.read_table(info.path, ["image_id", name])
        own = table["image_id"].to_numpy()
        place = np.searchsorted(ids, own).clip(max=len(ids) - 1)
        kept = ids[place] == own
        values[place[kept]] = table[name].to_numpy()[kept]
    return values


def true_classes(store: Store, ids: NDArray[np.int64]) -> tuple[NDArray[np.uint16], list[str]] | None:
    """uint16[n], the number of the true class of each image by the last evaluation, and the names of the classes.

    NO_CLASS where there is none; None where no image of the map has one.
    """
    if not store.storage.exists(MAP_TRUTH):
        return None
    table = store.storage.read_table(MAP_TRUTH, ["image_id", "label"])
    table = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids)))
    encoded = table["label"].combine_chunks().dictionary_encode()
    if not 0 < len(encoded.dictionary) < NO_CLASS:
        return None
    numbers = np.full(len(ids), NO_CLASS, np.uint16)
    numbers[np.searchsorted(ids, table["image_id"].to_numpy())] = encoded.indices.to_numpy()
    return numbers, [cut(name) for name in encoded.dictionary.to_pylist()]


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
