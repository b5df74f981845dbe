"""Labels of heads, consensus and classifier, and the weights that gave them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.io.weights import load_tensors
from icce_ray.settings import Settings
from icce_ray.stages.verify.images import check_names, same_ids
from icce_ray.stages.verify.reading import Manifest, Unfit, columns, document, fit, is_matrix, rows
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import (
    CLASSIFIER_DESCRIPTION,
    CLASSIFIER_WEIGHTS,
    CONSENSUS_SCORES,
    HEAD_LABELS,
    HEAD_LOSSES,
    HEAD_WEIGHTS,
    Table,
)

DESCRIPTION = CLASSIFIER_DESCRIPTION.path

#: Artifacts of one label an image: their stage, the share that comes with it, and the marker's figure of class sizes.
LABELLED = {
    "consensus": ("consensus", "agreement", "cluster_sizes"),
    "predictions": ("predict", "confidence", "class_sizes"),
}
_ROUNDING = 1e-5  # a float32 probability may come out a little above one


def check_head_labels(store: Store, marker: Marker, ids: np.ndarray, settings: Settings, of: str) -> Iterator[str]:
    """A label in range from every head for every image of `of`, whose ids are `ids`."""
    seen = [np.empty(0, np.int64)]
    for info in HEAD_LABELS.files(marker.files):
        try:
            table = columns(
                store, "head_labels", info.path, image_id=pa.types.is_int64, labels=is_matrix(pa.types.is_int32)
            )
        except Unfit as error:
            yield str(error)
            return
        seen.append(table["image_id"].to_numpy())
        if table["labels"].type.list_size != settings.heads.heads:
            yield f"head_labels: {info.path} has {table['labels'].type.list_size} labels, not {settings.heads.heads}"
        elif len(table):
            yield from _in_range("head_labels", info.path, rows(table["labels"]), settings.clusters)
    yield from same_ids("head_labels", np.concatenate(seen), ids, of)


def check_labels(
    store: Store, of: Table, marker: Marker, manifest: Manifest, clusters: int, seen: list[np.ndarray]
) -> Iterator[str]:
    """A label in range, a share in [0, 1] and the manifest's names in each row; puts the image_ids into `seen`."""
    artifact = of.path
    stage, share, figure = LABELLED[of.path]
    sizes = np.zeros(clusters, np.int64)
    found: list[str] = []
    for info in of.files(marker.files):
        kinds = {"image_id": pa.types.is_int64, "label": pa.types.is_int32, share: pa.types.is_floating}
        try:
            table = columns(store, artifact, info.path, **kinds)
        except Unfit as error:
            found.append(str(error))
            continue
        seen.append(table["image_id"].to_numpy())
        labels, shares = table["label"].to_numpy(), table[share].to_numpy()
        found += _in_range(artifact, info.path, labels, clusters)
        sizes += np.bincount(labels[(labels >= 0) & (labels < clusters)], minlength=clusters)
        if not ((shares >= 0) & (shares <= 1 + _ROUNDING)).all():
            found.append(f"{artifact}: {info.path} has values of {share} outside [0, 1]")
        found += check_names(artifact, info.path, table, manifest)
    if not found and marker.summary.get(figure) != sizes.tolist():
        found.append(
            f"{stage}: its marker says {figure} = {marker.summary.get(figure)}, its files hold {sizes.tolist()}"
        )
    yield from found


def _in_range(artifact: str, path: str, labels: np.ndarray, clusters: int) -> Iterator[str]:
    if len(labels) and (labels.min() < 0 or labels.max() >= clusters):
        yield f"{artifact}: {path} has labels in [{labels.min()}, {labels.max()}], outside [0, {clusters})"


def check_heads(store: Store, embedded: Marker, settings: Settings) -> Iterator[str]:
    """The heads' weights are finite and of the shapes that the settings give; so is each epoch's loss."""
    count, dim = settings.heads.heads, embedded.summary["dim"]
    hidden, bottleneck = settings.heads.hidden, settings.heads.bottleneck
    expected = {
        "hidden.weight": (count, hidden, dim),
        "hidden.bias": (count, hidden),
        "bottleneck.weight": (count, bottleneck, hidden),
        "bottleneck.bias": (count, bottleneck),
        "prototypes": (count, settings.clusters, bottleneck),
        "input.mean": (dim,),
        "input.std": (dim,),
    }
    yield from _tensors(store, "heads", HEAD_WEIGHTS.path, expected)
    kinds = {"epoch": pa.types.is_integer, "head": pa.types.is_integer}
    kinds |= dict.fromkeys(("temi", "cross_entropy"), pa.types.is_floating)
    try:
        losses = columns(store, "heads", HEAD_LOSSES.path, **kinds)
    except Unfit as error:
        yield str(error)
        return
    if len(losses) != settings.heads.epochs * count:
        yield f"heads: {HEAD_LOSSES.path} has {len(losses)} rows, not {settings.heads.epochs} epochs of {count} heads"
    if not all(np.isfinite(losses[name].to_numpy()).all() for name in ("temi", "cross_entropy")):
        yield f"heads: {HEAD_LOSSES.path} has losses that are not finite"


def check_classifier(store: Store, embedded: Marker, clusters: int) -> Iterator[str]:
    """The classifier's weights fit the columns that its description says it reads."""
    width = embedded.summary["dim"] + embedded.summary.get("block_dim", 0)
    try:
        description = document(store, "classifier", DESCRIPTION)
        with fit("classifier", DESCRIPTION):
            spans = [(int(start), int(stop)) for start, stop in description["columns"]]
            classes = int(description["classes"])
    except Unfit as error:
        yield str(error)
        return
    if classes != clusters:
        yield f"classifier: {DESCRIPTION} is of {classes} classes, the settings say {clusters}"
    if not spans or any(not 0 <= start < stop <= width for start, stop in spans):
        yield f"classifier: {DESCRIPTION} reads columns {spans} of features of width {width}"
        return
    inputs = sum(stop - start for start, stop in spans)
    yield from _tensors(
        store, "classifier", CLASSIFIER_WEIGHTS.path, {"weight": (clusters, inputs), "bias": (clusters,)}
    )


def check_scores(store: Store, marker: Marker) -> Iterator[str]:
    """scores.json holds the figures of the marker."""
    try:
        scores = document(store, "consensus", CONSENSUS_SCORES.path)
    except Unfit as error:
        yield str(error)
        return
    if scores != marker.summary:
        yield f"consensus: {CONSENSUS_SCORES.path} has other figures than the marker"


def _tensors(store: Store, stage: str, path: str, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    try:
        with fit(stage, path):
            tensors = load_tensors(store.storage, path)
    except Unfit as error:
        yield str(error)
        return
    found: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(found | expected):
        if found.get(name) != expected.get(name):
            yield f"{stage}: {path} has {name} of shape {found.get(name)}, expected is {expected.get(name)}"
        elif not tensors[name].isfinite().all():
            yield f"{stage}: {path} has values in {name} that are not finite"
