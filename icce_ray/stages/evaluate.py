"""Stage `evaluate`: labels of the run against the truth (paper 4.3).

Heads and consensus are scored on the images they have seen, the sample where there is one; the classifier on all, from
contingency tables that tasks count shard by shard. The driver reads the file of true labels, which may lie on its own
disk, and adds up tables: nothing there grows with the images of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.metrics import confusions, contingency, scores, table_scores
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.stages.cluster import Resources, completed_groups
from icce_ray.stages.features import FeatureRows, read_column
from icce_ray.stages.label_issues import write_label_issues
from icce_ray.stages.true_examples import examples, joined, write_examples
from icce_ray.stages.truth import (
    class_names,
    classes_at,
    keep_map_truth,
    labels_of,
    places_for,
    read_truth,
    shared_name,
)
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS, PREDICTIONS
from icce_ray.store.views import spaces_of

Figures = dict[str, Any]
NAMES = ["image_id", "uri", "key"]
#: Errors that are kept, the largest.
CONFUSED = 20


def run(
    store: Store,
    labels: str,
    resources: Resources,
    progress: Progress,
    *,
    predictions: str | None = None,
    kmeans: bool = False,
) -> Figures:
    """ACC, NMI and ARI of mean head, best head, consensus and classifier on the images that `labels` knows.

    Each says on how many `images`. `classes` names the true class most frequent in each class of the classifier,
    `confused` its largest errors; `label_issues` counts what `stages.label_issues` writes. `classifier_seen` is all
    images of the run; where it was learned from a sample, `classifier_rest` is those outside it. `predictions` is the
    output of `icce predict` on images the run has not seen; `kmeans` adds k-means on the features that the heads have
    seen as a baseline. Raises RunError if the file knows none of the images, or has one label for several of them.
    """
    settings = store.resolved(store.settings())
    if kmeans and settings.count_unknown:
        raise RunError("--kmeans needs the number of clusters, which the stage neighbors finds; complete it first")
    truth = read_truth(labels)
    if predictions is not None and "image_id" in truth.column_names:
        raise RunError(
            f"{labels} labels by image_id, which in {predictions} numbers other images than in the run; label by uri"
        )
    unseen = None if predictions is None else Store(predictions)
    own, new = _named(store), [] if unseen is None else _named(unseen)
    progress.begin(len(own) + len(new), unit="shards")
    shared = ray.put(truth)
    stages = _of_stages.remote(store.root, shared)
    baseline = _kmeans.remote(store.root, settings.clusters, settings.seed, shared) if kmeans else None
    images, tables, found = _count(store, own, labels, truth, shared, progress.update)
    figures: Figures = {"labels": labels, "images": images}
    figures |= ray.get(stages) | _scores(tables, "classifier_seen", "classifier_rest")
    if tables:
        figures |= _confused(tables[0], class_names(truth))
        write_examples(store.storage, found, tables[0], class_names(truth))
    if store.marker("heads") is not None and "mean_head" not in figures:
        progress.log("none of the images with a label is in the sample: only the classifier can be scored")
    if baseline is not None:
        figures |= ray.get(baseline)
    if "consensus" in figures:
        figures["label_issues"] = write_label_issues(store, truth)
    keep_map_truth(store, truth)
    if unseen is not None:
        _, tables, _ = _count(unseen, new, labels, truth, shared, lambda done: progress.update(len(own) + done))
        figures |= _scores(tables[:1], "classifier_unseen")
    return figures


def _named(store: Store) -> list[FileInfo]:
    """Files that name images: predictions of a run or of an `icce predict` output, features of a run without."""
    marker = store.marker("predict")
    return PREDICTIONS.files(marker.files) if marker else list(FeatureRows.of(store).files)


def _scores(tables: list[np.ndarray], *names: str) -> Figures:
    """Scores of each table that counts an image."""
    pairs = zip(names, tables, strict=False)
    return {name: table_scores(table) | {"images": int(table.sum())} for name, table in pairs if table.any()}


def _confused(table: np.ndarray, names: list[str]) -> Figures:
    """The true class most frequent in each class of the classifier, and the classifier's largest errors."""
    sizes = table.sum(axis=1)
    shares = table.max(axis=1) / np.maximum(sizes, 1)
    most = zip(table.argmax(axis=1).tolist(), shares.tolist(), sizes.tolist(), strict=True)
    names = [*names, "no class of its own"]  # -1: more clusters than classes
    return {
        "classes": [{"class": names[best], "share": round(share, 6)} if size else None for best, share, size in most],
        "confused": [
            {"label": label, "taken_for": names[matched], "true": names[true], "images": images}
            for label, matched, true, images in confusions(table, CONFUSED)
        ],
    }


def _count(
    store: Store, files: list[FileInfo], labels: str, truth: pa.Table, shared: Any, on_progress: Callable[[int], None]
) -> tuple[int, list[np.ndarray], pa.Table]:
    """Images with a true class; tables of classifier and truth, of all of them, outside the sample if any; examples."""
    marker = store.marker("predict")
    classes = len(marker.summary["class_sizes"]) if marker else 0
    sample = _sampled_ids.remote(store.root) if store.sampled() else None
    named, tables, done = np.zeros(len(truth), bool), [], 0
    kept = examples(*np.empty((3, 0), np.int64))
    task: Any = _count_group

    def count(paths: Sequence[str]) -> Any:
        return task.remote(store.root, paths, shared, classes, sample)

    for paths, places, counted, found in completed_groups(count, [info.path for info in files], cpus=0.5):
        if named[places].any():
            raise shared_name(truth)
        named[places] = True
        tables = [one + other for one, other in zip(tables, counted, strict=True)] if done else counted
        kept = joined([kept, found])
        done += paths
        on_progress(done)
    if not named.any():
        images = sum(info.rows or 0 for info in files)
        raise RunError(f"{labels} has labels of none of the {images} images of {store.root}; check its uri column")
    return int(named.sum()), tables, kept


@ray.remote(num_cpus=0.5)
def _count_group(
    root: str, paths: Sequence[str], truth: pa.Table, classes: int, sample: np.ndarray | None
) -> tuple[int, np.ndarray, list[np.ndarray], pa.Table]:
    """(shards, rows of the truth that they have, tables, examples) of some shards; of no classes no table."""
    storage = Store(root).storage
    columns = [*NAMES, "label"] if classes else NAMES
    table = pa.concat_tables([storage.read_table(path, columns) for path in paths])
    places = places_for(truth, table)
    labelled = places >= 0
    if not classes:
        return len(paths), places[labelled], [], examples(*np.empty((3, 0), np.int64))
    label, true = table["label"].to_numpy()[labelled], classes_at(truth, places[labelled])
    true_classes = int(truth["label"].to_numpy().max(initial=-1)) + 1
    tables = [contingency(label, true, classes, true_classes)]
    ids = table["image_id"].to_numpy()[labelled]
    if sample is not None:
        rest = sample[np.minimum(np.searchsorted(sample, ids), len(sample) - 1)] != ids
        tables.append(contingency(label[rest], true[rest], classes, true_classes))
    return len(paths), places[labelled], tables, examples(ids, label, true)


@ray.remote(num_cpus=0.25)
def _sampled_ids(root: str) -> np.ndarray:
    return FeatureRows.training(Store(root)).image_ids()


@ray.remote(num_cpus=0.5)
def _of_stages(root: str, truth: pa.Table) -> Figures:
    """Heads and consensus, on the images with a true label among those they were made from."""
    store = Store(root)
    heads = store.marker("heads")
    if heads is None:
        return {}
    true = labels_of(truth, FeatureRows.training(store))
    labelled = true >= 0
    if not labelled.any():
        return {}
    images = {"images": int(labelled.sum())}
    each = [scores(column, true[labelled]) for column in read_column(store, HEAD_LABELS, "labels")[labelled].T]
    best = heads.summary["best_head"]
    figures: Figures = {
        "mean_head": {key: float(np.mean([one[key] for one in each])) for key in each[0]} | images,
        "best_head": each[best] | images | {"head": best},
        "highest_head": max(each, key=lambda one: one["acc"]) | images,
    }
    if store.marker("consensus") is not None:
        figures["consensus"] = scores(read_column(store, CONSENSUS, "label")[labelled], true[labelled]) | images
    return figures


@ray.remote(num_cpus=1)
def _kmeans(root: str, clusters: int, seed: int, truth: pa.Table) -> Figures:
    """k-means, best of 10 starts, on the features that the heads have seen: the obvious alternative."""
    from sklearn.cluster import KMeans

    store = Store(root)
    true = labels_of(truth, FeatureRows.training(store))
    labelled = true >= 0
    if not labelled.any():
        return {}
    # Of several feature spaces joined: side by side as they are, the one of the largest numbers would decide alone.
    space = spaces_of(store.require("embed").summary)[-1]
    features = FeatureRows.of_space(store, space, {}).features().astype(np.float32)
    means: Any = KMeans  # its annotations allow only n_init="auto"
    # Seeds of a run may have 64 bits; scikit-learn takes 32.
    label = means(clusters, n_init=10, random_state=seed % 2**32).fit_predict(features)
    return {"kmeans": scores(label[labelled], true[labelled]) | {"images": int(labelled.sum())}}
