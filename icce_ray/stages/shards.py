"""Shards of one chunk of images, accepted and rejected rows apart, and what is known of shards that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray

from icce_ray.io.storage import FileInfo
from icce_ray.stages.cluster import run_bounded
from icce_ray.store import RunError, Store

T = TypeVar("T")


def write_chunk(table: pa.Table, *, root: str, accepted: str, rejected: str) -> pa.Table:
    """Write accepted and rejected rows of each chunk; returns its row of counts and files for the driver.

    Rejects are written first: the accepted shard, which a chunk always has, says that the chunk is done. A chunk of
    which rows are missing is an error: its shard would look complete without them.
    """
    storage, written = Store(root).storage, []
    for chunk in table["chunk"].unique().to_pylist():
        rows = table.filter(pc.field("chunk") == chunk)
        if len(rows) != rows["chunk_rows"][0].as_py():
            raise RunError(f"chunk {chunk} came with {len(rows)} of {rows['chunk_rows'][0]} images; report this")
        ok = rows.filter(pc.field("reason").is_null()).drop_columns(["chunk", "chunk_rows", "reason", "detail"])
        bad = rows.filter(pc.field("reason").is_valid()).select(["image_id", "uri", "key", "reason", "detail"])
        files = [storage.write_table(Store.part(rejected, chunk), bad)] if len(bad) else []
        files.append(storage.write_table(Store.part(accepted, chunk), ok))
        columns = {name: [getattr(info, name) for info in files] for name in ("path", "rows", "bytes", "sha256")}
        written.append({"ok": len(ok), "rejected": len(bad), **columns})
    return pa.Table.from_pylist(written)


def files_of(row: dict[str, Any]) -> list[FileInfo]:
    """The files that a row of `write_chunk` names."""
    columns = zip(row["path"], row["rows"], row["bytes"], row["sha256"], strict=True)
    return [FileInfo(path=path, rows=int(rows), bytes=int(size), sha256=digest) for path, rows, size, digest in columns]


def grouped(shards: Sequence[T], tasks: int, most: int = 16) -> list[Sequence[T]]:
    """Shards for each task: several, so that what a task loads serves them all, but at least four tasks a worker.

    `tasks` run side by side; `most` limits what a task that was killed repeats.
    """
    size = max(1, min(most, len(shards) // (4 * tasks)))
    return [shards[start : start + size] for start in range(0, len(shards), size)]


@ray.remote(num_cpus=0.25)
def _describe(root: str, path: str) -> FileInfo:
    return Store(root).storage.describe(path)


def described(store: Store, artifacts: list[str], known: set[str]) -> list[FileInfo]:
    """Files of earlier, killed attempts: there already, so hashed by reading them."""
    paths = [name for artifact in artifacts for name, _ in store.storage.list(artifact)]
    paths = [path for path in paths if path.endswith(".parquet") and path not in known]
    files: list[FileInfo] = []
    run_bounded(
        lambda index: _describe.remote(store.root, paths[index]), range(len(paths)), limit=32, on_result=files.append
    )
    return files


def count_rejects(store: Store, paths: list[str], most: int = 20) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Rejects by reason, and the first few of them by image_id."""
    reasons: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for path in sorted(paths):
        table = store.storage.read_table(path)
        reasons.update(table["reason"].to_pylist())
        if len(first) < most:
            first += table.slice(0, most - len(first)).to_pylist()
    return reasons, first
