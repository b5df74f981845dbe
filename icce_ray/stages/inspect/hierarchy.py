"""The tree of the classes, and what heads say of classes and of each other: from the head labels, by Ray tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from scipy import sparse

from icce_ray.core import hierarchy
from icce_ray.core.metrics import head_contingency, pairwise_nmi
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed_groups
from icce_ray.stages.features import matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS, HIERARCHY, Hierarchy
from icce_ray.store.shards import evenly

#: Images whose head labels are compared in pairs of heads, about.
COMPARED = 50_000


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Write the document of a run, or of a version, whose consensus is complete; the driver sees no labels."""
    consensus = store.require("consensus")
    sizes = np.array(consensus.summary["cluster_sizes"])
    files, heads = CONSENSUS.files(consensus.files), HEAD_LABELS.files(store.require("heads").files)
    compared = _compared.remote(store.root, evenly(heads, COMPARED / max(1, sum(info.rows or 0 for info in heads))))
    # Both are written in blocks of the same rows.
    pairs = [(one.path, other.path) for one, other in zip(files, heads, strict=True)]
    tables: list[sparse.csr_matrix] = []
    agreed: dict[str, np.ndarray] = {}
    for first, counts, total in completed_groups(
        lambda group: _counted.remote(store.root, group, len(sizes)), pairs, cpus=0.5
    ):
        tables = [_sum(*both) for both in zip(tables, counts, strict=True)] if tables else counts
        agreed[first] = total
    if len(sizes) > hierarchy.MOST_CLASSES:
        progress.log(f"no tree of {len(sizes):,} classes: it is made of at most {hierarchy.MOST_CLASSES:,}")
    total = np.sum([agreed[first] for first in sorted(agreed)], axis=0)
    content = ray.get(_document.remote(tables, sizes, total, compared))
    store.storage.write_bytes(HIERARCHY.path, json.dumps(content).encode())
    return [store.storage.describe(HIERARCHY.path)], {"merges": len(content["merges"])}


def _sum(one: sparse.csr_matrix, other: sparse.csr_matrix) -> sparse.csr_matrix:
    """Of tables of a head, which have as many rows as clusters were seen."""
    rows, classes = max(one.get_shape()[0], other.get_shape()[0]), one.get_shape()[1]
    one, other = one.copy(), other.copy()
    one.resize(rows, classes)
    other.resize(rows, classes)
    return sparse.csr_matrix(one + other)


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


@ray.remote(num_cpus=0.5)
def _counted(root: str, group: Sequence[tuple[str, str]], classes: int) -> tuple[str, list[Any], np.ndarray]:
    """The first file of some shards, each head's table of clusters and classes, and the agreement summed by class."""
    storage = Store(root).storage
    table = pa.concat_tables([storage.read_table(path, ["label", "agreement"]) for path, _ in group])
    labels = np.concatenate([matrix(storage.read_table(path, ["labels"])["labels"]) for _, path in group])
    label = table["label"].to_numpy()
    counts = head_contingency(labels, label, labels.max(axis=0, initial=0) + 1, classes)
    return group[0][0], counts, np.bincount(label, table["agreement"].to_numpy(), classes)


@ray.remote(num_cpus=1)
def _document(tables: list[Any], sizes: np.ndarray, agreed: np.ndarray, compared: tuple[np.ndarray, int]) -> Hierarchy:
    return document(hierarchy.co_association(tables), sizes, agreed, *compared)


@ray.remote(num_cpus=1)
def _compared(root: str, files: list[FileInfo]) -> tuple[np.ndarray, int]:
    """NMI of each two heads on the images of some shards, and how many these are."""
    storage = Store(root).storage
    labels = np.concatenate([matrix(storage.read_table(info.path, ["labels"])["labels"]) for info in files])
    return pairwise_nmi(labels), len(labels)
