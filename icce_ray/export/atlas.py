"""The map of a run as one Parquet file that Embedding Atlas opens: places, neighbours, labels and small pictures.

embedding-atlas FILE --x x --y y --neighbors neighbors --image image
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.export.files import free_target, whole, write_table
from icce_ray.export.findings import AGAIN
from icce_ray.export.images import RunImages
from icce_ray.export.names import chosen_names, class_names
from icce_ray.io.decode import Reject, thumbnail
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store, UsageError, check_files
from icce_ray.store.artifacts import CONSENSUS, MAP, PREDICTIONS

ATLAS = "atlas"
#: Longest side of a picture in pixels.
SIDE = 128
#: Images whose pictures are in memory together, and threads that make them.
_BLOCK, _THREADS = 512, 8
#: As Hugging Face's `datasets` stores images, which Embedding Atlas shows.
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def export_atlas(store: Store, out: str, progress: Progress, *, names: str | None = None) -> int:
    """Write every image of the map to `out`, a new local .parquet file; how many.

    Columns: image_id, uri, key, label, class (its name), confidence, agreement (null for images that heads did not
    learn from), x, y, neighbors {ids: rows of this file, distances: 1 - cosine}, and unless the run was made from
    features, image {bytes: WebP, path}, null for images that cannot be read any more. Memory holds the table without
    pictures, and some of these. `out` is whole or not there.

    Raises UsageError for an `out` of another ending; RunError for a run without a map, an `out` that is there already
    or is no local path; and as `chosen_names` and `RunImages` do.
    """
    if not out.lower().endswith(".parquet"):
        raise UsageError(f"--out {out}: Embedding Atlas knows Parquet by its ending; end it with .parquet")
    target, marker = free_target(out), store.marker(MAP.stage)
    if marker is None or not MAP.files(marker.files):
        raise RunError(
            f"{store.root} has no {MAP.path}: stage {MAP.stage} is not complete, or inspect.map_images = 0; {AGAIN}, "
            f"and --redo {MAP.stage} with another inspect.map_images makes a map"
        )
    check_files(store, "list", "predict", MAP.stage)
    classes = len(store.require("predict").summary["class_sizes"])
    named = class_names(chosen_names(store, names, classes, progress.log) or {}, classes)
    table, images = _rows(store, named), RunImages(store)
    progress.begin(len(table), unit="images")
    with whole(target) as path:
        tables = _with_pictures(table, images, progress) if images.has_pixels else iter([table])
        return sum(write_table(tables, "parquet", path))


def _rows(store: Store, named: list[str]) -> pa.Table:
    """All columns but the pictures, by ascending image_id."""
    table = store.storage.read_table(MAP.path).sort_by("image_id")
    ids = table["image_id"].to_numpy()
    columns = {name: table[name] for name in ("image_id", "uri", "key", "label")}
    columns["class"] = pa.array(named).take(table["label"])
    columns["confidence"] = _shares(store, PREDICTIONS.files(store.require("predict").files), ids, "confidence")
    consensus = store.marker(CONSENSUS.stage)
    if consensus is not None:
        columns["agreement"] = _shares(store, CONSENSUS.files(consensus.files), ids, "agreement")
    columns |= {name: table[name] for name in ("x", "y")}
    if "neighbor_ids" in table.column_names:
        columns["neighbors"] = _neighbors(table, ids)
    return pa.table(columns)


def _neighbors(table: pa.Table, ids: NDArray[np.int64]) -> pa.StructArray:
    """Lists of neighbours with rows in place of ids, and distances."""
    lists, cosines = (table[name].combine_chunks() for name in ("neighbor_ids", "similarities"))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]), pa.int32())
    rows = np.searchsorted(ids, lists.flatten().to_numpy())
    distances = 1.0 - cosines.flatten().to_numpy()
    columns = {"ids": pa.array(rows), "distances": pa.array(distances.clip(0.0), pa.float32())}
    arrays = [pa.ListArray.from_arrays(offsets, values) for values in columns.values()]
    return pa.StructArray.from_arrays(arrays, list(columns))


def _shares(store: Store, files: Iterable[FileInfo], ids: NDArray[np.int64], name: str) -> pa.Array:
    """float32[n] of the ascending `ids`, null for images that the files do not have; one file is read at a time."""
    values = np.full(len(ids), np.nan, np.float32)
    for info in files:
        table = store.storage.read_table(info.path, ["image_id", name])
        own = table["image_id"].to_numpy()
        place = np.searchsorted(ids, own).clip(max=len(ids) - 1)
        kept = ids[place] == own
        values[place[kept]] = table[name].to_numpy()[kept]
    return pa.array(values, from_pandas=True)


def _with_pictures(table: pa.Table, images: RunImages, progress: Progress) -> Iterator[pa.Table]:
    """The table with the column `image`, in blocks."""
    made, missing = _pictures(images, table["image_id"].to_numpy()), 0
    for start in range(0, len(table), _BLOCK):
        block = table.slice(start, _BLOCK)
        pictures = list(itertools.islice(made, len(block)))
        missing += sum(picture is None for picture in pictures)
        shown = [
            picture and {"bytes": picture, "path": key}
            for picture, key in zip(pictures, block["key"].to_pylist(), strict=True)
        ]
        yield block.append_column("image", pa.array(shown, _IMAGE))
        progress.update(start + len(block))
    if missing:
        progress.log(f"{missing:,} images cannot be read any more: they are there without a picture")


def _pictures(images: RunImages, ids: NDArray[np.int64]) -> Iterator[bytes | None]:
    """WebP files of ascending ids, None for those that cannot be read."""

    def small(one: tuple[int, bytes | Reject]) -> bytes | None:
        try:
            data = one[1]
            return None if isinstance(data, Reject) else thumbnail(data, longest=SIDE, max_pixels=most)
        except Reject:
            return None

    most, read = images.embed.max_pixels, images.read(ids, threads=_THREADS)
    with ThreadPoolExecutor(_THREADS) as threads:
        while block := list(itertools.islice(read, 4 * _THREADS)):
            yield from threads.map(small, block)
