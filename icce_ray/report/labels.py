"""The labels that a page shows: those of the run, and what its heads say of them and of each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from icce_ray.core.metrics import head_contingency, nmi, pair_counts
from icce_ray.io.storage import FileInfo
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS, PREDICTIONS

#: Images whose head labels are compared in pairs of heads, at most.
COMPARED = 50_000


@dataclass(frozen=True)
class Labelled:
    """Where a run keeps one label per image, and the share that says how sure it is."""

    share: str
    """Name of its column."""
    files: Sequence[FileInfo]
    sizes: NDArray[np.int64]
    """int64[K], images of each class, all of them counted."""

    def read(self, store: Store, info: FileInfo) -> pa.Table:
        """A shard: image_id, uri, key, label, share and, null in runs of 0.1.0, the runner-up and its share."""
        table = store.storage.read_table(info.path)
        for name, kind in (("runner_up", pa.int32()), ("runner_up_confidence", pa.float32())):
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), kind))
        return table.rename_columns({self.share: "share", "runner_up_confidence": "runner_up_share"})


def labelled(store: Store) -> Labelled | None:
    """The classifier's labels, or the consensus of a run that has no classifier yet; None before that."""
    for table, share, sizes in ((PREDICTIONS, "confidence", "class_sizes"), (CONSENSUS, "agreement", "cluster_sizes")):
        marker = store.marker(table.stage)
        if marker is not None:
            return Labelled(share, table.files(marker.files), np.asarray(marker.summary[sizes], np.int64))
    return None


def headline(store: Store, figures: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of each labelling of an evaluation in the order of the method, for a table."""
    kept, heads = store.marker("consensus"), store.resolved(store.settings()).heads.heads
    names = {
        "kmeans": "k-means on the same features",
        "mean_head": f"mean of {heads} heads",
        "best_head": "best head (lowest loss)",
        "consensus": f"consensus ({kept.summary['method']})" if kept else "consensus",
        "classifier_seen": "classifier, seen images",
        "classifier_rest": "classifier, images outside the sample",
        "classifier_unseen": "classifier, unseen images",
    }
    return [(text, figures[name]) for name, text in names.items() if name in figures]


def evenly(files: Sequence[FileInfo], share: float) -> list[FileInfo]:
    """About this share of the shards, at least one and at most all, evenly spread over the run."""
    wanted = max(1, min(len(files), round(len(files) * share)))
    return [files[place] for place in np.linspace(0, len(files) - 1, wanted).round().astype(int)] if files else []


def by_rank(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The first of each list, then the second of each, and so on."""
    ranked = itertools.chain.from_iterable(itertools.zip_longest(*lists))
    return np.array([one for one in ranked if one is not None], np.int64)


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
    asked = store.settings().clusters
    n_clusters = asked if isinstance(asked, int) else store.require("neighbors").summary["clusters"]
    step = max(1, sum(info.rows or 0 for info in files) // COMPARED)
    tables: list[sparse.csr_matrix] = []
    agreed, counted, kept = np.zeros(n_classes), np.zeros(n_classes), []
    for info, head_info in zip(files, head_files, strict=True):
        table = store.storage.read_table(info.path, ["label", "agreement"])
        label = table["label"].to_numpy()
        column = store.storage.read_table(head_info.path, ["labels"])["labels"].combine_chunks()
        labels = column.flatten().to_numpy().reshape(len(column), column.type.list_size)  # a shard may be empty
        counts = head_contingency(labels, label, np.full(labels.shape[1], n_clusters), n_classes)
        tables = [one + other for one, other in zip(tables, counts, strict=True)] if tables else counts
        agreed += np.bincount(label, weights=table["agreement"].to_numpy(), minlength=n_classes)
        counted += np.bincount(label, minlength=n_classes)
        kept.append(labels[::step])
    agreement = np.divide(agreed, counted, out=np.full(n_classes, np.nan), where=counted > 0)
    compared = np.concatenate(kept)
    return Classes(agreement, _together(tables), _pairs(compared, n_clusters), len(compared))


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
