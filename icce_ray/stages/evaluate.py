"""Stage `evaluate`: labels of the run against the truth (paper 4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.adapters.progress import StageProgress
from icce_ray.core.metrics import scores
from icce_ray.settings import Settings
from icce_ray.stages import consensus
from icce_ray.stages.cluster import Resources
from icce_ray.stages.rows import FeatureRows
from icce_ray.stages.truth import labels_for, read_truth
from icce_ray.store import ARTIFACTS, RunError, Store

Figures = dict[str, Any]


def run(
    store: Store,
    labels: str,
    resources: Resources,
    progress: StageProgress,
    *,
    predictions: str | None = None,
    kmeans: bool = False,
) -> Figures:
    """ACC, NMI and ARI of mean head, best head, consensus and classifier on the images that `labels` knows.

    `predictions` is the output of `icce predict` on images the run has not seen; `kmeans` adds k-means on the same
    features as a baseline. Raises RunError if the file knows none of the images.
    """
    settings = store.settings()
    progress.begin(2 + kmeans + (predictions is not None), unit="steps")
    truth = read_truth(labels)
    if predictions is not None and "image_id" in truth.column_names:
        raise RunError(
            f"{labels} labels by image_id, which in {predictions} numbers other images than in the run; label by uri"
        )
    rows = FeatureRows.of(store)
    seen = labels_for(truth, rows.table(0, len(rows), ["image_id", "uri", "key"]))
    if not (seen >= 0).any():
        raise RunError(f"{labels} has labels of none of the {len(rows)} images of {store.root}; check its uri column")
    figures: Figures = {"labels": labels, "images": int((seen >= 0).sum())}
    tasks = {"stages": _of_stages.remote(store.root, seen)}
    if kmeans:
        tasks["kmeans"] = _kmeans.remote(rows, settings.clusters, settings.seed, seen)
    for done, (name, task) in enumerate(tasks.items(), start=1):
        figures |= ray.get(task) if name == "stages" else {name: ray.get(task)}
        progress.update(done)
    if predictions is not None:
        figures["classifier_unseen"] = ray.get(_of_predictions.remote(predictions, truth))
    progress.update(2 + kmeans + (predictions is not None))
    return figures


@ray.remote(num_cpus=0.5)
def _of_stages(root: str, truth: np.ndarray) -> Figures:
    """Every labelling that the run holds, on the images with a true label."""
    store = Store(root)
    known = truth >= 0
    figures: Figures = {}
    heads = store.marker("heads")
    if heads is not None:
        each = [scores(column, truth[known]) for column in consensus.head_labels(store)[known].T]
        figures["mean_head"] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        figures["best_head"] = each[heads.summary["best_head"]] | {"head": heads.summary["best_head"]}
        figures["highest_head"] = max(each, key=lambda one: one["acc"])
    if store.marker("consensus") is not None:
        figures["consensus"] = scores(consensus.labels(store)[known], truth[known])
    if store.marker("predict") is not None:
        label = predictions_of(store)["label"].to_numpy()
        figures["classifier_seen"] = scores(label[known], truth[known])
    return figures


@ray.remote(num_cpus=0.5)
def _of_predictions(location: str, truth: pa.Table) -> Figures:
    table = predictions_of(Store(location))
    labels = labels_for(truth, table)
    known = labels >= 0
    if not known.any():
        raise RunError(f"the labels know none of the {len(table)} images of {location}; check their uri column")
    return scores(table["label"].to_numpy()[known], labels[known]) | {"images": int(known.sum())}


@ray.remote(num_cpus=1)
def _kmeans(rows: FeatureRows, clusters: int, seed: int, truth: np.ndarray) -> dict[str, float]:
    """k-means, best of 10 starts, on the features as stored: the obvious alternative."""
    from sklearn.cluster import KMeans

    features = rows.features().astype(np.float32)
    means: Any = KMeans  # its annotations know only n_init="auto"
    label = means(clusters, n_init=10, random_state=seed).fit_predict(features)
    return scores(label[truth >= 0], truth[truth >= 0])


def predictions_of(store: Store) -> pa.Table:
    """All predictions of a run or of an `icce predict` output, in the order of image_id."""
    files = store.require("predict").rows_of(ARTIFACTS["predict"])
    return pa.concat_tables([store.storage.read_table(info.path) for info in files])


def headline(settings: Settings, store: Store, figures: Figures) -> list[tuple[str, Figures]]:
    """(name, scores) of each labelling in the order of the method, for a table."""
    kept = store.marker("consensus")
    names = {
        "kmeans": "k-means on the same features",
        "mean_head": f"mean of {settings.heads.heads} heads",
        "best_head": "best head (lowest loss)",
        "consensus": f"consensus ({kept.summary['method']})" if kept else "consensus",
        "classifier_seen": "classifier, seen images",
        "classifier_unseen": "classifier, unseen images",
    }
    return [(text, figures[name]) for name, text in names.items() if name in figures]
