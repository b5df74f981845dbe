"""Stage `embed`: images to frozen features in Parquet shards, rejects beside them (paper 3.1)."""

from __future__ import annotations

from typing import Any

from icce_ray.backbones import BackboneInfo, describe_backbone
from icce_ray.io.sources import FeatureSource, Source, found_source, open_source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, Settings
from icce_ray.stages import stream
from icce_ray.stages.cluster import Resources
from icce_ray.store import Marker, RejectBudgetError, RunError, Store
from icce_ray.store.artifacts import FEATURES, REJECTS


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Embed every chunk of the manifest whose shard is not there yet. Returns the files and a summary."""
    source = open_source(found_source(settings.source, store.require("list").summary))
    info = described_input(source, settings.embed)
    images = stream.Stream(
        source=source,
        root=store.root,
        embed=settings.embed,
        info=info,
        accepted=FEATURES,
        rejected=REJECTS,
    )
    files, summary = stream.run(images, settings.resources, resources, progress)
    layout = {name: list(span) for name, span in info.layout.items()}
    return files, summary | {"dim": info.dim, "layout": layout, "block_dim": info.block_dim}


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


def check_enough(store: Store, clusters: int) -> None:
    """Raise RunError if the accepted images cannot form the clusters."""
    summary = store.require("embed").summary
    if summary["ok"] < clusters:
        raise RunError(
            f"clusters = {clusters}, but only {summary['ok']} of {summary['images']} images could be embedded "
            f"(rejected: {summary['rejected_by_reason']}; `detail` in {store.storage.uri(REJECTS.path)} says "
            "what helps); fix those, give more images, or ask for fewer clusters"
        )


def check_budget(marker: Marker | None, budget: float) -> None:
    """Raise RejectBudgetError if more inputs were rejected than allowed, naming them."""
    if marker is None or not marker.summary.get("rejected"):
        return
    summary = marker.summary
    share = summary["rejected"] / summary["images"]
    if share > budget:
        raise RejectBudgetError(
            f"{summary['rejected']} of {summary['images']} inputs ({share:.1%}) were rejected, the budget is "
            f"{budget:.1%}: {summary['rejected_by_reason']}. Every stage asked for is complete for the others. "
            "Fix the source, or accept it with --set embed.reject_budget=SHARE"
        )
