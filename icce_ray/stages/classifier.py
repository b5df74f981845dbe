"""Stage `classifier`: a grid of linear classifiers on the consensus labels, in one pass (paper 3.3), and its winner."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.linear import LinearClassifier, SelfTrained, self_train
from icce_ray.core.recipe import GridRecipe
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows, classifier_inputs, matrix, read_column, wide
from icce_ray.stages.remote_progress import Report, flush, remote_progress
from icce_ray.store import Store, check_content
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_GRID, CLASSIFIER_WEIGHTS, CONSENSUS, FEATURES
from icce_ray.store.versions import refinement_of

#: An image whose label people gave counts as so many more.
GIVEN = 10


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Train the grid in one task on the device; the winner predicts the held-out consensus labels best."""
    with remote_progress(progress, settings.classifier.iterations, unit="iterations") as actor:
        task = _train.options(num_cpus=1, num_gpus=resources.gpu_share)
        files, summary = ray.get(task.remote(settings, store.root, resources.device, resources.cores, actor))
    progress.log(
        f"best of {summary['classifiers']}: {summary['input']}, learning rate {summary['learning_rate']:g}; predicts "
        f"{summary['heldout_accuracy']:.2%} of {summary['heldout_images']:,} held-out consensus labels"
    )
    return files, summary


@ray.remote(max_retries=2)
def _train(settings: Settings, root: str, device: str, threads: int, actor: Any) -> StageResult:
    torch.set_num_threads(threads)
    store = Store(root)
    rows = FeatureRows.training(store)
    columns, inputs = grid_inputs(rows, rows.features())
    label, agreement = (read_column(store, CONSENSUS, name) for name in ("label", "agreement"))
    more, of_more = given_rows(store)
    if len(more):
        columns, label = np.concatenate([columns, more]), np.concatenate([label, of_more])
        agreement = np.concatenate([agreement, np.ones(len(more), agreement.dtype)])
    features = torch.from_numpy(columns).to(device)
    fitted = fit_grid(features, label, agreement, inputs, settings, lambda done, _: actor.report.remote(Report(done)))
    flush(actor)
    winner, chosen = fitted.winner, fitted.classifier
    description = {
        "input": winner.input,
        "columns": inputs[winner.input],
        "learning_rate": winner.learning_rate,
        "heldout_accuracy": winner.accuracy,
        "heldout_images": fitted.heldout_images,
        "classes": settings.clusters,
        "dim": store.require("embed").summary["dim"],
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


def given_rows(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """All features float16[n, W] and labels int32[n] of images whose label people gave, GIVEN times; of a run none.

    They are learned from beside the sample, whether they are in there or not.
    """
    refinement = refinement_of(store)
    fixed = {} if refinement is None else refinement.fixed
    if not fixed:
        return np.empty((0, 0), np.float16), np.empty(0, np.int32)
    ids, pieces, labels = np.array(sorted(fixed), np.int64), [], []
    ends = np.cumsum([info.rows or 0 for info in store.require("list").files])
    for shard in np.unique(np.searchsorted(ends, ids, side="right")).tolist():
        table = store.storage.read_table(FEATURES.part(shard))
        table = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids)))
        blocks = matrix(table["cls_blocks"]) if "cls_blocks" in table.column_names else None
        pieces.append(wide(matrix(table["features"]), blocks))
        labels += [fixed[image] for image in table["image_id"].to_pylist()]
    return np.repeat(np.concatenate(pieces), GIVEN, axis=0), np.repeat(np.array(labels, np.int32), GIVEN)


def grid_inputs(rows: FeatureRows, main: np.ndarray) -> tuple[np.ndarray, dict[str, list[tuple[int, int]]]]:
    """All features of the rows side by side, `main` first, and the columns of each input of the grid."""
    embedded = Store(rows.root).require("embed").summary
    blocks = rows.features(column="cls_blocks") if embedded["block_dim"] else None
    widths = embedded["layout"], embedded["dim"], embedded["block_dim"]
    return wide(main, blocks), classifier_inputs(*widths, embedded.get("spaces"))


def fit_grid(
    features: torch.Tensor,
    label: np.ndarray,
    agreement: np.ndarray,
    inputs: Mapping[str, Sequence[tuple[int, int]]],
    settings: Settings,
    on_progress: Callable[[int, int], None] | None = None,
) -> SelfTrained:
    """Train the grid of the settings on the consensus int[N] of `features` [N, W] and the agreement with it [N]."""
    own = settings.classifier
    return self_train(
        features,
        torch.from_numpy(label.astype(np.int64)).to(features.device),
        torch.from_numpy(agreement).to(features.device),
        recipe=GridRecipe(**{field.name: getattr(own, field.name) for field in dataclasses.fields(GridRecipe)}),
        seed=settings.seed,
        on_progress=on_progress,
        inputs=inputs,
        n_classes=settings.clusters,
        precision=own.precision,
    )


class Labels(NamedTuple):
    """What the classifier says of n images: the label and the second most probable one, each with its probability."""

    label: np.ndarray
    """int32[n]"""
    confidence: np.ndarray
    """float32[n]"""
    runner_up: np.ndarray
    """int32[n]"""
    runner_up_confidence: np.ndarray
    """float32[n]"""

    def given(self, ids: np.ndarray, fixed: Mapping[int, int]) -> Labels:
        """With the labels of `fixed` for those of the images `ids` int64[n]: people are sure, and next is the other."""
        label, places = self.label.copy(), np.flatnonzero(np.isin(ids, np.array(list(fixed), np.int64)))
        label[places] = [fixed[image] for image in ids[places].tolist()]
        other = label != self.label
        confidence = self.confidence.copy()
        confidence[places] = 1.0
        second = np.where(other, self.label, self.runner_up)
        return Labels(label, confidence, second, np.where(other, self.confidence, self.runner_up_confidence))

    def beside(self, table: pa.Table) -> pa.Table:
        """The table of these images with these columns at its end."""
        for name, values in self._asdict().items():
            table = table.append_column(name, pa.array(values))
        return table


class Labeller:
    """Labels and confidences by the classifier of a run: what `predict` runs, beside the backbone too."""

    def __init__(self, root: str, *, device: str) -> None:
        store = Store(root)
        check_content(store, "classifier", CLASSIFIER_WEIGHTS.path, CLASSIFIER_DESCRIPTION.path)
        weights = store.storage.read_tensors(CLASSIFIER_WEIGHTS.path)
        self.description = store.document(CLASSIFIER_DESCRIPTION)
        self.classifier = LinearClassifier(weights["weight"].to(device), weights["bias"].to(device))
        self.columns = np.concatenate([np.arange(*part) for part in self.description["columns"]])
        self.device = device

    def __call__(self, main: np.ndarray, blocks: np.ndarray | None) -> Labels:
        """Labels for features of n images, float16."""
        features = torch.from_numpy(np.ascontiguousarray(wide(main, blocks)[:, self.columns])).to(self.device)
        with torch.no_grad():
            probabilities = self.classifier.probabilities(features)
            confidence, label = probabilities.max(dim=1)
            others = probabilities.scatter_(1, label[:, None], -1.0)
            second_confidence, second = others.max(dim=1)
        found = (label.to(torch.int32), confidence, second.to(torch.int32), second_confidence)
        return Labels(*(values.cpu().numpy() for values in found))
