"""Stage `list`: the inputs, listed once into a Parquet manifest; where that takes long, beside the stage that follows.

A key can take as long to list as its image takes to embed, so `Listing` lists in a thread of the driver, and says which
shards of the manifest are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
from icce_ray.store.artifacts import FEATURES, MANIFEST, REJECTS

T = TypeVar("T")

#: Seconds that a listing which is no longer wanted has to end: it may wait for a store.
STOP_SECONDS = 5.0


class Listing:
    """A listing in a thread of this process, from entering to leaving; `work` lists, and is given this object.

    What was embedded of an earlier listing that was not finished stays if it is listed as it was then.
    """

    def __init__(self, source: Source, store: Store, work: Callable[[Listing], object]) -> None:
        self.source = source
        self._listed_before = store.parts(MANIFEST)
        self._embedded = store.parts(FEATURES)
        self._work, self._store = work, store
        self._chunks: list[int] = []
        self._over, self._stopped = False, False
        self._error: Exception | None = None
        self._actor: Any = None
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)

    def __enter__(self) -> Listing:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing more is listed."""
        self._stopped = True
        self._thread.join(STOP_SECONDS)

    def ended(self, seconds: float | None) -> bool:
        """Whether everything is listed within so many seconds, None for any. Raises what has ended it too early."""
        try:
            self._thread.join(seconds)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("stage list")
            raise
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def checked(self, results: Iterable[T]) -> Generator[T]:
        """Results of work on what is listed; raises what ends the listing too early, at the latest after the last."""
        try:
            for result in results:
                self.ended(0)
                yield result
            self.ended(None)
        finally:
            with self._turn:
                self._actor = None  # Ray may end before the listing does

    def known(self) -> Any:
        """The actor that knows which chunks are there to be embedded, on this node; see `Known`."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        with self._turn:
            self._actor = Known.options(scheduling_strategy=here).remote()
            self._actor.add.remote(self._chunks, self._over)
            return self._actor

    # -- called by `run`, in the thread ------------------------------------------------------------------------

    def wanted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables; RunError once nobody wants them any more."""
        for table in tables:
            if self._stopped:
                raise RunError("the listing was stopped")
            yield table

    def compare(self, chunk: int, rows: pa.Table) -> None:
        """Delete what was embedded of a chunk that was listed before, and not with these rows."""
        if chunk in self._listed_before and not self._store.storage.read_table(MANIFEST.part(chunk)).equals(rows):
            self._discard(chunk)

    def add(self, chunk: int) -> None:
        """A chunk is there."""
        if chunk not in self._embedded:
            self._tell([chunk], over=False)

    def finish(self, count: int) -> None:
        """There are so many chunks: delete what is left of others."""
        for chunk in sorted(number for number in self._listed_before if number >= count):
            self._discard(chunk)
            self._store.storage.delete(MANIFEST.part(chunk))

    def _discard(self, chunk: int) -> None:
        for table in (FEATURES, REJECTS):
            self._store.storage.delete(table.part(chunk))
        self._embedded.discard(chunk)

    def _tell(self, chunks: list[int], *, over: bool) -> None:
        with self._turn:
            self._chunks += chunks
            self._over = over
            if self._actor is not None:
                self._actor.add.remote(chunks, over)

    def _run(self) -> None:
        try:
            self._work(self)
        except Exception as error:  # noqa: BLE001 - raised by `ended`, in the thread that waits for this one
            self._error = error
        finally:
            self._tell([], over=True)


@ray.remote(num_cpus=0)
class Known:
    """The numbers of chunks that are there, for tasks to ask."""

    def __init__(self) -> None:
        self._chunks: list[int] = []
        self._over = False

    def add(self, chunks: list[int], over: bool) -> None:
        """More of them; `over` if they are the last."""
        self._chunks += chunks
        self._over = over

    def after(self, count: int) -> tuple[list[int], bool]:
        """Those after the first so many, and whether no more will come."""
        return self._chunks[count:], self._over


def run(
    source: Source, store: Store, progress: Progress, rows_per_shard: int, beside: Listing | None = None
) -> StageResult:
    """List `source` from the beginning, in its own order, and number the images; `beside` learns of each shard.

    The summary holds what was found of the source (format, columns), so that no later stage looks again, and a digest
    over its files by which a later start sees that it has changed. Memory does not grow with the number of images.
    Raises SourceError for a source that cannot be listed or has no image.
    """
    if beside is None:
        store.storage.delete_tree(MANIFEST.path)
    tables = source.listing() if beside is None else beside.wanted(source.listing())
    files, size_total = numbered(store, tables, rows_per_shard, progress, beside)
    if beside is not None:
        beside.finish(len(files))
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
    store: Store, tables: Iterator[pa.Table], rows_per_shard: int, progress: Progress, beside: Listing | None = None
) -> tuple[list[FileInfo], int]:
    """Write the rows of a listing as the manifest, numbered in their order; its files and the bytes of all images."""
    files, first, size_total = [], 0, 0
    progress.begin(0, unit="images")
    for chunk, table in enumerate(_shards(tables, rows_per_shard)):
        numbered = table.add_column(0, "image_id", pa.array(range(first, first + len(table)), pa.int64()))
        if beside is not None:
            beside.compare(chunk, numbered)
        files.append(MANIFEST.write(store.storage, numbered, chunk))
        if beside is not None:
            beside.add(chunk)
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
