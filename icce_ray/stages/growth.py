"""What is new in a source: images whose names, or whose sizes, a run and its updates do not know.

An image is known by its full name (`place_of` the source, and its uri). It is new if nobody knows the name, and a new
version if key or size differ from what was listed last under that name; where a size is not known it cannot differ.
Names are compared in one piece where there are few, else hash-partitioned by Ray Data, which spills to disk: beside a
shard of names a process holds one partition, of about `PARTITION` names, and the driver a byte per listed image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.io.sources import Source
from icce_ray.progress import Progress
from icce_ray.stages import StageResult, listing
from icce_ray.stages.connection import connected
from icce_ray.store import Store
from icce_ray.store.artifacts import MANIFEST
from icce_ray.store.updates import full_names, place_of

#: Names that are compared in the driver, without Ray; names of one partition; shards of names that a task reads.
FEW, PARTITION, SHARDS = 200_000, 1_000_000, 64
#: What is said of a listed image.
KNOWN, NEW, CHANGED = 0, 1, 2
#: The whole listing, until the new images of it are known.
SCRATCH = "listing"
_arrow: Any = pc  # the stubs know few of its functions


@dataclass(frozen=True)
class Listed:
    """A manifest whose names are compared: that of the run, of its updates in their order, and last of the source."""

    root: str
    place: str
    shards: int
    rows: int

    @classmethod
    def of(cls, store: Store, location: str) -> Listed:
        """That of a store, whose images lie at `location`."""
        files = store.require("list").files
        return cls(store.root, place_of(location), len(files), sum(info.rows or 0 for info in files))


def run(source: Source, known: Sequence[Listed], store: Store, progress: Progress, rows_per_shard: int) -> StageResult:
    """List those images of a source that `known` does not have, or has in another version.

    The manifest is that of a run with these images alone, numbered from 0. Beside the figures of `listing.run` the
    summary has `listed`, all images of the source, and `changed`, those of `images` that are new versions. Raises
    SourceError as `listing.run` does.
    """
    scratch = Store(store.storage.uri(SCRATCH))
    files, summary = listing.run(source, scratch, progress, rows_per_shard)
    listed = Listed(scratch.root, place_of(source.spec.location), len(files), summary["images"])
    state = _states([*known, listed])
    tables = (
        scratch.storage.read_table(info.path).filter(pa.array(some > KNOWN)).drop_columns("image_id")
        for info, some in zip(files, _parts(state, [info.rows or 0 for info in files]), strict=True)
    )
    store.storage.delete_tree(MANIFEST.path)
    written, size = listing.numbered(store, tables, rows_per_shard, progress)
    store.storage.delete_tree(SCRATCH)
    images, changed = int((state > KNOWN).sum()), int((state == CHANGED).sum())
    progress.log(f"{images - changed:,} new images and {changed:,} new versions among {listed.rows:,}")
    return written, summary | {"images": images, "bytes": size, "listed": listed.rows, "changed": changed}


def _parts(values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _states(manifests: Sequence[Listed]) -> np.ndarray:
    """KNOWN, NEW or CHANGED of every image of the last manifest, int8."""
    shards = sum(one.shards for one in manifests)
    state, total = np.full(manifests[-1].rows, -1, np.int8), sum(one.rows for one in manifests)
    if total <= FEW:
        return _filled(state, [compared(names(pa.table({"id": range(shards)}), manifests=manifests))])
    with connected():
        return _filled(state, _shuffled(shards, total, manifests))


def _filled(state: np.ndarray, answers: Iterable[pa.Table]) -> np.ndarray:
    for table in answers:
        state[table["number"].to_numpy()] = table["state"].to_numpy()
    if (state < 0).any():
        raise RuntimeError(f"{int((state < 0).sum())} of {len(state)} listed images were not compared; report this")
    return state


def _shuffled(shards: int, names_in_all: int, manifests: Sequence[Listed]) -> Iterator[pa.Table]:
    """What `compared` says of each partition of all names."""
    import ray.data  # here: the many processes that import this module's neighbours need no second for it

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        yield from (
            ray.data.range(shards, override_num_blocks=-(-shards // SHARDS))
            .map_batches(
                cast(Any, names),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0.5,
                fn_kwargs={"manifests": manifests},
            )
            .repartition(-(-names_in_all // PARTITION), keys=["name"])
            .map_batches(cast(Any, compared), batch_size=None, batch_format="pyarrow", num_cpus=0.5)
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )


def names(batch: pa.Table, *, manifests: Sequence[Listed]) -> pa.Table:
    """Rows of some shards, whose numbers over all manifests are in column `id`.

    Columns name; key, "" where it is the uri; size, -1 where it is not known; generation, the manifest's place in their
    order; and number, of the image in the last manifest, -1 in the others.
    """
    first, tables = np.cumsum([0, *(one.shards for one in manifests)]), []
    for shard in batch["id"].to_pylist():
        generation = int(np.searchsorted(first, shard, side="right")) - 1
        one, part = manifests[generation], shard - int(first[generation])
        table = Store(one.root).storage.read_table(MANIFEST.part(part), ["image_id", "uri", "key", "size"])
        uri, last = table["uri"], generation == len(manifests) - 1
        own = _arrow.not_equal(table["key"], uri)  # else the key says what the uri does, from another folder
        tables.append(
            pa.table(
                {
                    "name": full_names(uri, one.place),
                    "key": _arrow.if_else(own, table["key"], ""),
                    "size": table["size"].fill_null(-1),
                    "generation": pa.repeat(pa.scalar(generation, pa.int32()), len(table)),
                    "number": table["image_id"] if last else pa.repeat(pa.scalar(-1, pa.int64()), len(table)),
                }
            )
        )
    return pa.concat_tables(tables).combine_chunks()


def compared(table: pa.Table) -> pa.Table:
    """(number, state) of the listed images in rows of `names` that hold all rows of each of their names.

    The version that counts is the one listed last: an image that was changed and changed back is a new version.
    """
    number, generation = table["number"].to_numpy(), table["generation"].to_numpy()
    name, size = _codes(table["name"].combine_chunks()), table["size"].combine_chunks()
    keyed = _codes(_arrow.binary_join_element_wise(table["name"], table["key"], "\0").combine_chunks())
    exact = keyed.astype(np.int64) * (len(table) + 1) + _codes(size)
    listed = number >= 0
    latest = np.full(int(name.max(initial=-1)) + 1, -1, generation.dtype)
    np.maximum.at(latest, name[~listed], generation[~listed])
    last = ~listed & (generation == latest[name])
    unsized = size.to_numpy()[listed] < 0
    same = np.where(unsized, np.isin(keyed[listed], keyed[last]), np.isin(exact[listed], exact[last]))
    state = np.where(same, KNOWN, np.where(latest[name[listed]] < 0, NEW, CHANGED)).astype(np.int8)
    return pa.table({"number": number[listed], "state": state})


def _codes(values: pa.Array) -> np.ndarray:
    """Equal numbers for equal values."""
    return values.dictionary_encode().indices.to_numpy()
