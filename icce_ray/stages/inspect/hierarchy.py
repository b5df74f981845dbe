"""The tree of the classes, and what heads say of classes and of each other: from the head labels, by Ray tasks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core import hierarchy
from icce_ray.core.metrics import pairwise_nmi
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources
from icce_ray.stages.ensemble import Shards
from icce_ray.stages.features import matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS, HIERARCHY, Hierarchy
from icce_ray.store.shards import evenly

#: Images whose head labels are compared in pairs of heads, about.
COMPARED = 50_000


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Write the document of a run whose consensus is complete; the driver sees no labels."""
    consensus = store.require("consensus")
    sizes = np.array(consensus.summary["cluster_sizes"])
    files, heads = CONSENSUS.files(consensus.files), HEAD_LABELS.files(store.require("heads").files)
    shards = Shards(store, lambda name: None)
    compared = _compared.remote(store.root, evenly(heads, COMPARED / max(1, shards.n_images)))
    paths = [[files[number].path for number in part] for part in shards.parts]  # written in blocks of the same rows
    read: list[Any] = [_read.remote(store.root, *each, len(sizes)) for each in zip(paths, shards.index, strict=True)]
    agreed = np.sum(ray.get([total for _, total in read]), axis=0)
    together = shards.co_association([label for label, _ in read], len(sizes))
    content = document(together, sizes, agreed, *ray.get(compared))
    if len(sizes) > hierarchy.MOST_CLASSES:
        progress.log(f"no tree of {len(sizes):,} classes: it is made of at most {hierarchy.MOST_CLASSES:,}")
    store.storage.write_bytes(HIERARCHY.path, json.dumps(content).encode())
    return [store.storage.describe(HIERARCHY.path)], {"merges": len(content["merges"])}


def document(
    together: np.ndarray, sizes: np.ndarray, agreed: np.ndarray, pairs: np.ndarray, compared: int
) -> Hierarchy:
    """What is kept of `co_association` [K, K], of images and their summed agreement [K], and of pairs of heads."""
    means = np.divide(agreed, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return {
        "merges": hierarchy.tree(together, sizes) if len(sizes) <= hierarchy.MOST_CLASSES else [],
        "nearest": hierarchy.nearest(together),
        "agreement": [round(mean, 6) if size else None for mean, size in zip(means.tolist(), sizes, strict=True)],
        "pairs": pairs.round(6).tolist(),
        "compared": compared,
    }


@ray.remote(num_cpus=1, num_returns=2)
def _read(root: str, paths: list[str], index: np.ndarray | None, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the rows of one shard, of which images of one row share theirs, and the agreement of each class."""
    tables = [Store(root).storage.read_table(path, ["label", "agreement"]) for path in paths]
    table = pa.concat_tables(tables)
    label = table["label"].to_numpy()
    agreed = np.bincount(label, table["agreement"].to_numpy(), classes)
    if index is None:
        return label, agreed
    rows = np.empty(int(index.max()) + 1, np.int32)
    rows[index] = label
    return rows, agreed


@ray.remote(num_cpus=1)
def _compared(root: str, files: list[FileInfo]) -> tuple[np.ndarray, int]:
    """NMI of each two heads on the images of some shards, and how many these are."""
    storage = Store(root).storage
    labels = np.concatenate([matrix(storage.read_table(info.path, ["labels"])["labels"]) for info in files])
    return pairwise_nmi(labels), len(labels)
