"""Stage `classifier`: a grid of linear classifiers on the consensus labels, in one pass (paper 3.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.linear import GridPoint, LinearClassifier, LinearGrid, best_point, holdout_rows
from icce_ray.core.recipe import GridRecipe
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import consensus
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.labelling import classifier_inputs, wide
from icce_ray.stages.remote_progress import Report, flush, remote_progress
from icce_ray.store import Store
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_GRID, CLASSIFIER_WEIGHTS


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Train the grid in one task on the device; the winner predicts the held-out consensus labels best."""
    with remote_progress(progress, settings.classifier.iterations, unit="iterations") as actor:
        task = _train.options(num_cpus=1, num_gpus=resources.gpu_share)
        files, summary = ray.get(
            task.remote(settings.model_dump(), store.root, resources.device, resources.cores, actor)
        )
    progress.log(
        f"best of {summary['classifiers']}: {summary['input']}, learning rate {summary['learning_rate']:g}; predicts "
        f"{summary['heldout_accuracy']:.2%} of {summary['heldout_images']:,} held-out consensus labels"
    )
    return files, summary


@ray.remote(max_retries=2)
def _train(
    values: dict[str, Any], root: str, device: str, threads: int, actor: Any
) -> tuple[list[FileInfo], dict[str, Any]]:
    torch.set_num_threads(threads)
    settings, store = Settings.model_validate(values), Store(root)
    rows = FeatureRows.training(store)
    embedded = store.require("embed").summary
    inputs = classifier_inputs(embedded["layout"], embedded["dim"], embedded["block_dim"])
    blocks = rows.features(column="cls_blocks") if embedded["block_dim"] else None
    features = torch.from_numpy(wide(rows.features(), blocks)).to(device)
    labels = torch.from_numpy(consensus.labels(store).astype(np.int64)).to(device)
    fitted = fit_grid(features, labels, inputs, settings, lambda done, total: actor.report.remote(Report(done)))
    flush(actor)
    winner, chosen = fitted.winner, fitted.classifier
    description = {
        "input": winner.input,
        "columns": inputs[winner.input],
        "learning_rate": winner.learning_rate,
        "heldout_accuracy": winner.accuracy,
        "heldout_images": fitted.heldout_images,
        "classes": settings.clusters,
        "dim": embedded["dim"],
        "embed": settings.embed.model_dump(mode="json"),
    }
    storage = store.storage
    table = pa.Table.from_pylist([vars(point) for point in fitted.points])
    storage.write_bytes(CLASSIFIER_DESCRIPTION.path, json.dumps(description, indent=1).encode())
    files = [
        storage.write_tensors(CLASSIFIER_WEIGHTS.path, {"weight": chosen.weight, "bias": chosen.bias}),
        CLASSIFIER_GRID.write(storage, table),
        storage.describe(CLASSIFIER_DESCRIPTION.path),
    ]
    summary = {key: description[key] for key in ("input", "learning_rate", "heldout_accuracy", "heldout_images")}
    return files, summary | {"classifiers": len(fitted.points)}


@dataclass(frozen=True)
class Fitted:
    """A grid that was trained, and the classifier that predicts the held-out labels best."""

    points: list[GridPoint]
    winner: GridPoint
    classifier: LinearClassifier
    heldout_images: int


def fit_grid(
    features: torch.Tensor,
    labels: torch.Tensor,
    inputs: Mapping[str, Sequence[tuple[int, int]]],
    settings: Settings,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Train the grid on `labels` int64[N] of `features` [N, W] less those held out, and choose by these."""
    rows = holdout_rows(len(features), settings.classifier.holdout, settings.seed)
    train, held = (part.to(features.device) for part in rows)
    grid = LinearGrid(
        features[train],
        labels[train],
        inputs=inputs,
        n_classes=settings.clusters,
        recipe=GridRecipe(
            learning_rates=settings.classifier.learning_rates,
            batch_size=settings.classifier.batch_size,
            iterations=settings.classifier.iterations,
        ),
        seed=settings.seed,
        precision=settings.classifier.precision,
    ).fit(on_progress)
    points = grid.score(features[held], labels[held])
    winner = best_point(points)
    return Fitted(points, winner, grid.classifier(winner), len(held))
