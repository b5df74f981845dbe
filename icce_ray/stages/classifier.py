"""Stage `classifier`: a grid of linear classifiers on the consensus labels, in one pass (paper 3.3)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.adapters.weights import save_tensors
from icce_ray.core.linear import LinearGrid, best_point, holdout_rows
from icce_ray.settings import Settings
from icce_ray.stages import consensus
from icce_ray.stages.cluster import Resources
from icce_ray.stages.labelling import DESCRIPTION, WEIGHTS, classifier_inputs, wide
from icce_ray.stages.reporting import Report, relayed
from icce_ray.stages.rows import FeatureRows
from icce_ray.store import Store

GRID = "classifier/grid.parquet"


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Train the grid in one task on the device; the winner predicts the held-out consensus labels best."""
    with relayed(progress, settings.classifier.iterations, unit="iterations") as board:
        task = _train.options(num_cpus=1, num_gpus=resources.gpu_share)
        files, summary = ray.get(
            task.remote(settings.model_dump(), store.root, resources.device, resources.cores, board)
        )
    progress.say(
        f"best of {summary['classifiers']}: {summary['input']}, learning rate {summary['learning_rate']:g}; predicts "
        f"{summary['heldout_accuracy']:.2%} of {summary['heldout_images']:,} held-out consensus labels"
    )
    return files, summary


@ray.remote(max_retries=2)
def _train(
    values: dict[str, Any], root: str, device: str, threads: int, board: Any
) -> tuple[list[FileInfo], dict[str, Any]]:
    torch.set_num_threads(threads)
    settings, store = Settings.model_validate(values), Store(root)
    rows = FeatureRows.training(store)
    embedded = store.require("embed").summary
    inputs = classifier_inputs(embedded["layout"], embedded["dim"], embedded["block_dim"])
    blocks = rows.features(column="cls_blocks") if embedded["block_dim"] else None
    features = torch.from_numpy(wide(rows.features(), blocks)).to(device)
    labels = torch.from_numpy(consensus.labels(store).astype(np.int64)).to(device)
    train, held = (part.to(device) for part in holdout_rows(len(rows), settings.classifier.holdout, settings.seed))
    grid = LinearGrid(
        features[train],
        labels[train],
        inputs=inputs,
        n_classes=settings.clusters,
        learning_rates=settings.classifier.learning_rates,
        batch_size=settings.classifier.batch_size,
        iterations=settings.classifier.iterations,
        seed=settings.seed,
    ).fit(lambda done, total: board.post.remote(Report(done)))
    points = grid.score(features[held], labels[held])
    winner = best_point(points)
    chosen = grid.classifier(winner)
    description = {
        "input": winner.input,
        "columns": inputs[winner.input],
        "learning_rate": winner.learning_rate,
        "heldout_accuracy": winner.accuracy,
        "heldout_images": len(held),
        "classes": settings.clusters,
        "dim": embedded["dim"],
        "embed": settings.embed.model_dump(mode="json"),
    }
    storage = store.storage
    table = pa.Table.from_pylist([vars(point) for point in points])
    storage.write_bytes(DESCRIPTION, json.dumps(description, indent=1).encode())
    files = [
        save_tensors(storage, WEIGHTS, {"weight": chosen.weight, "bias": chosen.bias}),
        storage.write_table(GRID, table),
        storage.describe(DESCRIPTION),
    ]
    summary = {key: description[key] for key in ("input", "learning_rate", "heldout_accuracy", "heldout_images")}
    return files, summary | {"classifiers": len(points)}
