"""Stage `predict`: the classifier's label of every image, of the run itself from its features, or of a new source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.sources import FeatureSource, Source, SourceSpec
from icce_ray.adapters.storage import FileInfo
from icce_ray.settings import EmbedSettings, ResourceSettings, Settings
from icce_ray.stages.cluster import Resources, run_files
from icce_ray.stages.embed import through_backbone
from icce_ray.stages.labelling import Labeller
from icce_ray.stages.rows import OK, FeatureRows, matrix
from icce_ray.stages.shards import described, write_chunk
from icce_ray.store import ARTIFACTS, RunError, Store

ARTIFACT = ARTIFACTS["predict"]
REJECTS = "rejects"


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Label the run's own images from their stored features, one task a shard."""
    files = store.require("embed").rows_of(OK)
    rows = FeatureRows.of(store)
    done = store.parts(ARTIFACT)
    missing = [index for index in range(len(files)) if index not in done]
    finished = sum(files[index].rows or 0 for index in done)
    progress.begin(len(rows), done=finished, unit="images")
    task = _label_shard.options(num_cpus=0.5, num_gpus=resources.gpu_share)
    found = run_files(
        lambda index: task.remote(store.root, files[index].path, index, resources.device),
        missing,
        limit=2 * max(1, resources.cores * resources.nodes),
        finished=finished,
        progress=progress,
    )
    found += described(store, [ARTIFACT], {info.path for info in found})
    return found, ray.get(_summarise.remote(store.root, [info.path for info in found], settings.clusters))


def run_source(
    run_store: Store,
    source: SourceSpec,
    out: Store,
    limits: ResourceSettings,
    resources: Resources,
    progress: StageProgress,
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Label the images listed in `out`'s manifest with the classifier of `run_store`, straight from the source."""
    labeller = Labeller(run_store.root, device="cpu")
    found, counts = through_backbone(
        source,
        out,
        EmbedSettings.model_validate(labeller.description["embed"]),
        limits,
        resources,
        progress,
        write=write_predictions,
        artifacts=(ARTIFACT, REJECTS),
        labeller=run_store.root,
    )
    paths = [info.path for info in found if info.path.startswith(ARTIFACT)]
    return found, counts | ray.get(_summarise.remote(out.root, paths, labeller.description["classes"]))


def write_predictions(table: pa.Table, *, root: str) -> pa.Table:
    """Task: predictions and rejects of one chunk, rejects first."""
    return write_chunk(
        table,
        root=root,
        ok_artifact=ARTIFACT,
        reject_artifact=REJECTS,
        dropped=("chunk", "chunk_rows", "reason", "detail"),
    )


def check_source(source: Source, run_store: Store) -> None:
    """Raise RunError if a run's classifier cannot read this source: features where it reads images, or the reverse."""
    embedded = run_store.require("embed").summary
    precomputed = "features" in embedded["layout"]
    if isinstance(source, FeatureSource) != precomputed:
        has, wants = ("images", "features") if precomputed else ("features", "images")
        raise RunError(
            f"{source.spec.location} holds {has}, but the classifier of {run_store.root} reads {wants}; give a source "
            f"of {wants}"
        )
    if isinstance(source, FeatureSource) and source.dim != embedded["dim"]:
        raise RunError(
            f"{source.spec.location} has features of {source.dim} numbers, the classifier of {run_store.root} reads "
            f"{embedded['dim']}; give features of the same model"
        )


@ray.remote
def _label_shard(root: str, path: str, index: int, device: str) -> FileInfo:
    store = Store(root)
    table = store.storage.read_table(path)
    blocks = matrix(table["cls_blocks"]) if "cls_blocks" in table.column_names else None
    label, confidence = Labeller(root, device=device)(matrix(table["features"]), blocks)
    part = table.select(["image_id", "uri", "key"]).append_column("label", pa.array(label))
    return store.storage.write_table(
        Store.part(ARTIFACT, index), part.append_column("confidence", pa.array(confidence))
    )


@ray.remote(num_cpus=0.25)
def _summarise(root: str, paths: list[str], classes: int) -> dict[str, Any]:
    """Sizes of the classes and mean confidence over all shards."""
    storage, sizes, confidence = Store(root).storage, np.zeros(classes, np.int64), 0.0
    for path in paths:
        table = storage.read_table(path, ["label", "confidence"])
        sizes += np.bincount(table["label"].to_numpy(), minlength=classes)
        confidence += float(table["confidence"].to_numpy().sum(dtype=np.float64))
    total = int(sizes.sum())
    return {
        "labelled": total,
        "class_sizes": sizes.tolist(),
        "empty_classes": int((sizes == 0).sum()),
        "mean_confidence": confidence / max(1, total),
    }
