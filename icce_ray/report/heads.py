"""What the heads say of each other and of the classes: agreement, and which classes they take for one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.metrics import head_contingency, nmi, pair_counts
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS

#: Images whose head labels are compared in pairs of heads, at most.
COMPARED = 50_000


@dataclass(frozen=True)
class Classes:
    """The consensus as the heads see it.

    Attributes:
        agreement: float64[K], mean share of heads that agree on the images of a class; NaN for an empty one.
        together: float32[K, K], how often a head puts an image of one class and one of another into the same
            cluster, mean over heads; on the diagonal two images of one class.
        pairs: float64[H, H], NMI of the labels of each two heads.
        compared: images that `pairs` counts.
    """

    agreement: NDArray[np.float64]
    together: NDArray[np.float32]
    pairs: NDArray[np.float64]
    compared: int


def classes_of(store: Store) -> Classes | None:
    """Read shard by shard; None for a run without consensus."""
    consensus, heads = store.marker("consensus"), store.marker("heads")
    if consensus is None or heads is None:
        return None
    files = CONSENSUS.files(consensus.files)
    head_files = HEAD_LABELS.files(heads.files)  # the same rows: both are written in blocks of the features
    n_classes = len(consensus.summary["cluster_sizes"])
    step = max(1, sum(info.rows or 0 for info in files) // COMPARED)
    tables: list[sparse.csr_matrix] = []
    agreed, counted, kept = np.zeros(n_classes), np.zeros(n_classes), []
    n_clusters = _clusters(store)
    for info, head_info in zip(files, head_files, strict=True):
        table = store.storage.read_table(info.path, ["label", "agreement"])
        label = table["label"].to_numpy()
        column = store.storage.read_table(head_info.path, ["labels"])["labels"].combine_chunks()
        labels = column.flatten().to_numpy().reshape(len(column), column.type.list_size)  # a shard may be empty
        sizes = np.full(labels.shape[1], n_clusters)
        counts = head_contingency(labels, label, sizes, n_classes)
        tables = [one + other for one, other in zip(tables, counts, strict=True)] if tables else counts
        agreed += np.bincount(label, weights=table["agreement"].to_numpy(), minlength=n_classes)
        counted += np.bincount(label, minlength=n_classes)
        kept.append(labels[::step])
    agreement = np.divide(agreed, counted, out=np.full(n_classes, np.nan), where=counted > 0)
    some = np.concatenate(kept)
    return Classes(agreement, _together(tables), _pairs(some, n_clusters), len(some))


def _clusters(store: Store) -> int:
    """Clusters of a head: the setting, or what the stage neighbors found."""
    asked = store.settings().clusters
    return asked if isinstance(asked, int) else store.require("neighbors").summary["clusters"]


def _together(tables: list[sparse.csr_matrix]) -> NDArray[np.float32]:
    """Mean over heads of the chance that two images, one of each class, share a cluster, float32[K, K]."""
    classes = tables[0].get_shape()[1]
    total = np.zeros((classes, classes))
    for table in tables:
        sizes = np.asarray(table.sum(axis=0)).ravel()
        shares = sparse.csr_matrix(table @ sparse.diags_array(1.0 / np.maximum(sizes, 1)))
        total += sparse.csr_matrix(shares.T @ shares).toarray()
    return (total / len(tables)).astype(np.float32)


def _pairs(labels: NDArray[np.integer], n_clusters: int) -> NDArray[np.float64]:
    """NMI of each two heads, float64[H, H], of int[n, H] labels."""
    heads = labels.shape[1]
    columns = np.ascontiguousarray(labels.T)
    pairs = np.eye(heads)
    for one in range(heads):  # pairs of heads, not images: 1,225 for 50 heads
        for other in range(one):
            table = pair_counts(columns[one], columns[other], n_clusters, n_clusters)
            pairs[one, other] = pairs[other, one] = nmi(table)
    return pairs
