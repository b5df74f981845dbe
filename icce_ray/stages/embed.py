"""Stage `embed`: images to frozen features in Parquet shards, rejects beside them (paper 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from icce_ray.adapters.backbones import BackboneInfo, describe_backbone
from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.sources import FeatureSource, Source, SourceSpec, open_source
from icce_ray.adapters.storage import FileInfo
from icce_ray.settings import EmbedSettings, ResourceSettings, Settings
from icce_ray.stages import images
from icce_ray.stages.cluster import Resources, run_bounded
from icce_ray.stages.listing import found_source
from icce_ray.stages.rows import OK, REJECT
from icce_ray.store import RunError, Store


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Embed every chunk of the manifest whose shard is not there yet. Returns the files and a summary."""
    source = found_source(settings.source, store.require("list").summary)
    info = described_input(open_source(source), settings.embed)
    found, summary = through_backbone(
        source,
        store,
        settings.embed,
        settings.resources,
        resources,
        progress,
        write=write_features,
        artifacts=(OK, REJECT),
    )
    layout = {name: list(span) for name, span in info.layout.items()}
    return found, summary | {"dim": info.dim, "layout": layout, "block_dim": info.block_dim}


def through_backbone(
    source: SourceSpec,
    store: Store,
    embed: EmbedSettings,
    limits: ResourceSettings,
    resources: Resources,
    progress: StageProgress,
    *,
    write: Callable[..., pa.Table],
    artifacts: tuple[str, str],
    labeller: str | None = None,
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Send the chunks of the manifest that are not there yet through the backbone, to `write` as tasks.

    `artifacts` are the directories of accepted and rejected rows. Returns their files, those of earlier attempts
    included, and the counts. Raises RunError if an input is missing or there twice.
    """
    accepted, refused = artifacts
    counts = [info.rows or 0 for info in store.require("list").files]
    done = store.parts(accepted)
    finished = sum(counts[chunk] for chunk in done)
    progress.begin(sum(counts), done=finished, unit="images")
    missing = [chunk for chunk in range(len(counts)) if chunk not in done]
    found: list[FileInfo] = []
    rejected = 0
    if missing:
        stream = images.stream(
            source=source,
            root=store.root,
            chunks=missing,
            embed=embed,
            image_size=described_input(open_source(source), embed).image_size,
            resources=resources,
            actors=limits.embed_actors,
            batch=limits.embed_batch,
            labeller=labeller,
            write=write,
        )
        for row in stream:
            found += files_of(row)
            rejected += row["rejected"]
            finished += row["ok"] + row["rejected"]
            progress.update(finished, rejected=rejected)
    found += described(store, list(artifacts), {info.path for info in found})
    reasons, first = rejects(store, [info.path for info in found if info.path.startswith(refused)])
    summary = {
        "images": sum(counts),
        "ok": sum(info.rows or 0 for info in found if info.path.startswith(accepted)),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(reasons),
        "first_rejects": first,
    }
    if summary["ok"] + summary["rejected"] != summary["images"]:
        raise RunError(
            f"{summary['images']} inputs, but {summary['ok']} ok and {summary['rejected']} rejected; report this"
        )
    return found, summary


def described_input(source: Source, embed: EmbedSettings) -> BackboneInfo:
    """What the chosen backbone gives, without its weights, or what a source of features holds.

    Raises BackboneError if the backbone cannot be used.
    """
    if isinstance(source, FeatureSource):
        layout = {"features": (0, source.dim)}
        return BackboneInfo(name="", features="features", dim=source.dim, image_size=0, layout=layout, block_dim=0)
    return describe_backbone(
        embed.backbone, embed.feature_kind, n_last_blocks=embed.n_last_blocks, image_size=embed.image_size
    )


def write_features(table: pa.Table, *, root: str) -> pa.Table:
    """Task: the two shards of one chunk, rejects first: the ok shard says that the chunk is done."""
    return write_chunk(
        table, root=root, ok_artifact=OK, reject_artifact=REJECT, dropped=("chunk", "chunk_rows", "reason", "detail")
    )


def write_chunk(
    table: pa.Table, *, root: str, ok_artifact: str, reject_artifact: str, dropped: tuple[str, ...]
) -> pa.Table:
    """Write accepted and rejected rows of each chunk; returns its row of counts and files for the driver.

    A chunk of which rows are missing is an error: its shard would look complete without them.
    """
    written = []
    for chunk in table["chunk"].unique().to_pylist():
        rows = table.filter(pc.field("chunk") == chunk)
        if len(rows) != rows["chunk_rows"][0].as_py():
            raise RunError(f"chunk {chunk} came with {len(rows)} of {rows['chunk_rows'][0]} images; report this")
        written.append(_write_one(rows, chunk, root, ok_artifact, reject_artifact, dropped))
    return pa.Table.from_pylist(written)


def _write_one(
    table: pa.Table, chunk: int, root: str, ok_artifact: str, reject_artifact: str, dropped: tuple[str, ...]
) -> dict[str, Any]:
    storage = Store(root).storage
    ok = table.filter(pc.field("reason").is_null()).drop_columns(list(dropped))
    bad = table.filter(pc.field("reason").is_valid()).select(["image_id", "uri", "key", "reason", "detail"])
    files = []
    if len(bad):
        files.append(storage.write_table(Store.part(reject_artifact, chunk), bad))
    files.append(storage.write_table(Store.part(ok_artifact, chunk), ok))
    return {
        "ok": len(ok),
        "rejected": len(bad),
        "path": [info.path for info in files],
        "rows": [info.rows for info in files],
        "bytes": [info.bytes for info in files],
        "sha256": [info.sha256 for info in files],
    }


def files_of(row: dict[str, Any]) -> list[FileInfo]:
    """The files that a row of `write_chunk` tells of."""
    columns = zip(row["path"], row["rows"], row["bytes"], row["sha256"], strict=True)
    return [FileInfo(path=path, rows=int(rows), bytes=int(size), sha256=digest) for path, rows, size, digest in columns]


@ray.remote(num_cpus=0.25)
def _describe(root: str, path: str) -> FileInfo:
    return Store(root).storage.describe(path)


def described(store: Store, artifacts: list[str], known: set[str]) -> list[FileInfo]:
    """Files of earlier, killed attempts: there already, so hashed by reading them."""
    paths = [name for artifact in artifacts for name, _ in store.storage.list(artifact)]
    paths = [path for path in paths if path.endswith(".parquet") and path not in known]
    found: list[FileInfo] = []
    run_bounded(
        lambda index: _describe.remote(store.root, paths[index]), range(len(paths)), limit=32, on_result=found.append
    )
    return found


def rejects(store: Store, paths: list[str], most: int = 20) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Rejects by reason, and the first few of them by image_id."""
    reasons: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for path in sorted(paths):
        table = store.storage.read_table(path)
        reasons.update(table["reason"].to_pylist())
        if len(first) < most:
            first += table.slice(0, most - len(first)).to_pylist()
    return reasons, first


def check_enough(store: Store, clusters: int) -> None:
    """Raise RunError if the accepted images cannot form the clusters."""
    summary = store.require("embed").summary
    if summary["ok"] < clusters:
        raise RunError(
            f"clusters = {clusters}, but only {summary['ok']} of {summary['images']} images could be embedded "
            f"(rejected: {summary['rejected_by_reason']}); ask for fewer clusters or give more images"
        )
