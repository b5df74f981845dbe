"""The labels that a page shows, and their scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.io.storage import FileInfo
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, PREDICTIONS


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


def by_rank(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The first of each list, then the second of each, and so on."""
    ranked = itertools.chain.from_iterable(itertools.zip_longest(*lists))
    return np.array([one for one in ranked if one is not None], np.int64)
