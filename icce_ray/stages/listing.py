"""Stage `list`: the inputs, listed once into a Parquet manifest (image_id, uri, size)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.sources import list_images
from icce_ray.adapters.storage import FileInfo
from icce_ray.store import ARTIFACTS, RunError, Store

SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string()), ("size", pa.int64())])


def run(
    source: str, store: Store, progress: StageProgress, *, rows_per_shard: int
) -> tuple[list[FileInfo], dict[str, Any]]:
    """List `source` in the order of its keys and number the images. Returns the files written and a summary.

    The digest over keys and sizes lets a later run see that the source has changed. Raises SourceError for a
    source that is missing or has no image.
    """
    listing = list_images(source)
    digest = hashlib.sha256()
    files, first, size_total = [], 0, 0
    progress.begin(0, unit="images")
    for chunk, rows in enumerate(_chunks(listing, rows_per_shard)):
        for key, size in rows:
            digest.update(f"{key}\0{size}\0".encode())
            size_total += max(size, 0)
        ids = range(first, first + len(rows))
        columns = [pa.array(ids, pa.int64()), *(pa.array(values) for values in zip(*rows, strict=True))]
        table = pa.table(columns, names=SCHEMA.names).cast(SCHEMA)
        files.append(store.storage.write_table(Store.part(ARTIFACTS["list"], chunk), table))
        first += len(rows)
        progress.update(first)
    summary = {
        "images": first,
        "bytes": size_total,
        "other_files": listing.other,
        "hidden": listing.hidden,
        "names_not_utf8": listing.undecodable,
        "digest": digest.hexdigest(),
    }
    return files, summary


def check_unchanged(source: str, summary: dict[str, Any]) -> None:
    """Raise RunError if a source on a local disk no longer lists as it did when the run began."""
    if "://" in source:  # listing a bucket again costs as much as the first time
        return
    digest, images = hashlib.sha256(), 0
    for key, size in list_images(source):
        digest.update(f"{key}\0{size}\0".encode())
        images += 1
    if digest.hexdigest() != summary["digest"]:
        raise RunError(
            f"{source} has changed since the run began: {images:,} images now, {summary['images']:,} then"
            f"{' (names or sizes differ)' if images == summary['images'] else ''}; "
            "give another --out for the images as they are now (or `icce run --redo list` to repeat a run on them)"
        )


def _chunks(rows: Iterable[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
