"""Stage `list`: the inputs, listed once into a Parquet manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.core.cluster_count import in_reach
from icce_ray.io.sources import Source
from icce_ray.io.sources.base import LISTED
from icce_ray.io.storage import FileInfo
from icce_ray.io.stores import is_local, resolve
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose
from icce_ray.stages import StageResult
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MANIFEST


def run(source: Source, store: Store, progress: Progress, rows_per_shard: int) -> StageResult:
    """List `source` from the beginning, in its own order, and number the images.

    The summary holds what was found of the source (format, columns), so that no later stage looks again, and a digest
    over its files by which a later start sees that it has changed. Memory does not grow with the number of images.
    Raises SourceError for a source that cannot be listed or has no image.
    """
    store.storage.delete_tree(MANIFEST.path)
    files, size_total = numbered(store, source.listing(), rows_per_shard, progress)
    first = sum(info.rows or 0 for info in files)
    left_out = ", ".join(f"{count:,} {kind}" for kind, count in source.left_out.items()) or "nothing"
    progress.log(f"{first:,} images ({source.spec.format}); left out: {left_out}")
    summary = {
        "images": first,
        "bytes": size_total,
        "left_out": dict(source.left_out),
        "source": {name: getattr(source.spec, name) for name in ("format", "column", "key_column")},
        "digest": source.digest(),
    }
    return files, summary


def numbered(
    store: Store, tables: Iterator[pa.Table], rows_per_shard: int, progress: Progress
) -> tuple[list[FileInfo], int]:
    """Write the rows of a listing as the manifest, numbered in their order; its files and the bytes of all images."""
    files, first, size_total = [], 0, 0
    progress.begin(0, unit="images")
    for chunk, table in enumerate(_shards(tables, rows_per_shard)):
        numbered = table.add_column(0, "image_id", pa.array(range(first, first + len(table)), pa.int64()))
        files.append(MANIFEST.write(store.storage, numbered, chunk))
        first += len(table)
        size_total += pc.call_function("sum", [table["size"]]).as_py() or 0
        progress.update(first)
    return files, size_total


def check_clusters(settings: Settings, images: int) -> None:
    """Raise RunError if so many images are too few for the clusters asked for, or to look for their number."""
    if settings.count_unknown:
        sample = min(images, settings.heads.max_images)
        try:
            k_min = choose(settings, n_images=sample, dim=1, mean_cosine=0.0).k_min  # which does not depend on these
            in_reach(sample, k_min, *settings.neighbors.cluster_range)
        except ValueError as error:
            raise RunError(str(error)) from error
    if settings.fewest_clusters > images:
        raise RunError(
            f"clusters = {settings.fewest_clusters} is more than the {images} images of {settings.source}; ask for "
            "fewer clusters or give more images"
        )


def check_unchanged(source: Source, summary: dict[str, Any]) -> None:
    """Raise RunError if a source on a local disk no longer holds the files that it held when the run began."""
    if not is_local(resolve(source.spec.location)[0]):  # listing a bucket again costs as much as the first time
        return
    files = sum(1 for _ in source.files())
    if source.digest() != summary["digest"]:
        raise RunError(
            f"{source.spec.location} has changed since the run began: it holds {files:,} files now, whose names and "
            f"sizes are not those of the {summary['images']:,} images listed then; give another --out for the images "
            "as they are now (or `icce run --redo list` to repeat a run on them)"
        )


def _shards(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows as tables of `rows`, the last one shorter."""
    waiting = LISTED.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if len(waiting):
        yield waiting.combine_chunks()
