"""Stage `embed`: images to frozen features in Parquet shards, rejects beside them (paper 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from icce_ray.backbones import BackboneInfo, describe_backbone
from icce_ray.io.sources import FeatureSource, Source, SourceSpec, found_source, open_source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, ResourceSettings, Settings
from icce_ray.stages import images
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import OK, REJECT
from icce_ray.stages.shards import described, files_of, rejects, write_chunk
from icce_ray.store import RunError, Store


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress
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
    progress: Progress,
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
    done = store.parts(accepted, of=len(counts))
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
            f"{summary['images']} inputs, but {summary['ok']} ok and {summary['rejected']} rejected: {store.root} has "
            f"shards of other inputs; {store.remedy(accepted)}"
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


def check_enough(store: Store, clusters: int) -> None:
    """Raise RunError if the accepted images cannot form the clusters."""
    summary = store.require("embed").summary
    if summary["ok"] < clusters:
        raise RunError(
            f"clusters = {clusters}, but only {summary['ok']} of {summary['images']} images could be embedded "
            f"(rejected: {summary['rejected_by_reason']}; `detail` in {store.storage.uri(REJECT)} says what helps); "
            "mend those, give more images, or ask for fewer clusters"
        )
