"""Stage `predict`: the classifier's label of every image, of the run itself from its features, or of a new source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from icce_ray.io.sources import FeatureSource, Source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, ResourceSettings, Settings
from icce_ray.stages import StageResult
from icce_ray.stages.classifier import Labeller
from icce_ray.stages.cluster import Resources, completed_groups, write_shards
from icce_ray.stages.embed import described_input, run_stream
from icce_ray.stages.features import matrix
from icce_ray.stages.spans import of_source
from icce_ray.stages.stream import Stream
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES, PREDICTION_REJECTS, PREDICTIONS
from icce_ray.store.versions import refinement_of
from icce_ray.store.views import is_precomputed


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress, *, classifier: str | None = None
) -> StageResult:
    """Label the store's own images from their stored features, shard by shard: all of them, whatever the sample.

    The classifier is that of the run with the root `classifier`, by default the store itself.
    On CPUs in any case: a shard takes longer to fetch than a GPU needs for it, and each task would hold a whole one.
    """
    files, run = FEATURES.files(store.require("embed").files), classifier or store.root

    def label(shards: Sequence[int]) -> Any:
        return _label_shards.remote(store.root, [(shard, files[shard].path) for shard in shards], run)

    written = write_shards(
        store,
        PREDICTIONS,
        [info.rows or 0 for info in files],
        lambda missing: completed_groups(label, missing, cpus=0.5),
        progress,
    )
    return written, _summary(store, written, settings.clusters)


def run_source(
    run_store: Store,
    source: Source,
    out: Store,
    limits: ResourceSettings,
    resources: Resources,
    progress: Progress,
) -> StageResult:
    """Label the images listed in `out`'s manifest with the classifier of `run_store`, straight from the source."""
    description = Labeller(run_store.root, device="cpu").description
    embed = EmbedSettings.model_validate(description["embed"])
    images = Stream(
        source=source,
        root=out.root,
        embed=embed,
        info=described_input(source, embed),
        accepted=PREDICTIONS,
        rejected=PREDICTION_REJECTS,
        batch=limits.embed_batch,
        classifier=run_store.root,
    )
    files, counts = run_stream(images, limits, resources, progress)
    return files, counts | _summary(out, PREDICTIONS.files(files), description["classes"])


def check_source(source: Source, run_store: Store) -> None:
    """Raise RunError if a run's classifier cannot read this source: features where it reads images, or the reverse."""
    embedded = run_store.require("embed").summary
    precomputed = is_precomputed(embedded["layout"])
    if isinstance(source, FeatureSource) != precomputed:
        has, wants = ("images", "features") if precomputed else ("features", "images")
        raise RunError(
            f"{source.spec.location} holds {has}, but the classifier of {run_store.root} reads {wants}; give a source "
            f"of {wants}"
        )
    if not isinstance(source, FeatureSource):
        return
    layout = {name: list(span) for name, span in of_source(source).layout.items()}
    if list(layout) != list(embedded["layout"]):
        has, wants = (_spaces_in(one) for one in (layout, embedded["layout"]))
        raise RunError(
            f"{source.spec.location} has {has}, the classifier of {run_store.root} reads {wants}; name them in this "
            "order with --column NAME,NAME"
        )
    if layout != embedded["layout"]:
        raise RunError(
            f"{source.spec.location} has features of {_widths_in(layout)} numbers, the classifier of {run_store.root} "
            f"reads {_widths_in(embedded['layout'])}; give features of the same model"
        )


def _spaces_in(layout: dict[str, list[int]]) -> str:
    names = [name.partition(".")[0] for name in layout if "." in name]
    return f"the feature spaces {', '.join(names)}" if names else "one feature space"


def _widths_in(layout: dict[str, list[int]]) -> str:
    return " + ".join(str(stop - start) for start, stop in layout.values())


@ray.remote(num_cpus=0.5)
def _label_shards(root: str, shards: list[tuple[int, str]], classifier: str) -> list[FileInfo]:
    """Predictions of some shards, (number, path) of their features, by a classifier that is loaded once."""
    store, labeller = Store(root), Labeller(classifier, device="cpu")
    storage, refinement = store.storage, refinement_of(store)
    fixed = {} if refinement is None or classifier != root else refinement.fixed
    written = []
    for index, path in shards:
        table = storage.read_table(path)
        blocks = matrix(table["cls_blocks"]) if "cls_blocks" in table.column_names else None
        found = labeller(matrix(table["features"]), blocks)
        if fixed:
            found = found.given(table["image_id"].to_numpy(), fixed)
        part = found.beside(table.select(["image_id", "uri", "key"]))
        written.append(PREDICTIONS.write(storage, part, index))
    return written


def _summary(store: Store, files: list[FileInfo], classes: int) -> dict[str, Any]:
    """Sizes of the classes and mean confidence over all shards, in parts whose sums are added up here."""
    sizes, sums = np.zeros(classes, np.int64), []
    paths = sorted(info.path for info in files)
    for counts, confidences in completed_groups(
        lambda group: _count.remote(store.root, group, classes), paths, cpus=0.25
    ):
        sizes += counts
        sums += confidences
    total = int(sizes.sum())
    return {
        "labelled": total,
        "class_sizes": sizes.tolist(),
        "empty_classes": int((sizes == 0).sum()),
        "mean_confidence": math.fsum(sums) / max(1, total),  # exact: the order in which tasks end changes nothing
    }


@ray.remote(num_cpus=0.25)
def _count(root: str, paths: Sequence[str], classes: int) -> tuple[np.ndarray, list[float]]:
    """Images of each class over some shards, and the sum of the confidences of each shard."""
    storage, sizes, sums = Store(root).storage, np.zeros(classes, np.int64), []
    for path in paths:
        table = storage.read_table(path, ["label", "confidence"])
        sizes += np.bincount(table["label"].to_numpy(), minlength=classes)
        sums.append(float(table["confidence"].to_numpy().sum(dtype=np.float64)))
    return sizes, sums
