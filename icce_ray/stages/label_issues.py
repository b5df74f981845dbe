"""Labels of the user's that the classes contradict: `evaluation/label_issues.parquet`.

A class stands for the true class that most of its images have, if it is pure enough. An image of such a class that is
labelled otherwise is suspicious where most heads agree on the class, and most of its neighbours bear the label that the
class stands for: two witnesses, of which the second keeps most errors of the classes themselves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.metrics import contingency
from icce_ray.stages.cluster import completed, room_for
from icce_ray.stages.features import FeatureRows, read_column
from icce_ray.stages.truth import class_names, labels_of
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, LABEL_ISSUES, NEIGHBORS
from icce_ray.store.views import spaces_of

#: Least share of a class's images that have the label that it stands for, and of the heads that agree on an image.
PURITY, AGREEMENT = 0.7, 0.7


def write_label_issues(store: Store, truth: pa.Table) -> int:
    """Write the suspicious labels among the images that heads have learned from, and count them."""
    rows = FeatureRows.training(store)
    counting: Any = _classes
    given, stands_for = counting.options(num_returns=2).remote(rows, truth)
    lists = NEIGHBORS.of(spaces_of(store.require("embed").summary)[-1])
    paths = [info.path for info in lists.files(store.require("neighbors").files)]
    tasks = (_suspicious.remote(rows, path, given, stands_for, class_names(truth)) for path in paths)
    found = pa.concat_tables(completed(tasks, room_for(0.5))).sort_by("image_id").combine_chunks()
    LABEL_ISSUES.write(store.storage, found)
    return len(found)


@ray.remote(num_cpus=0.5)
def _classes(rows: FeatureRows, truth: pa.Table) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Image_ids with their given labels, -1 for none; the label that each class stands for, -1 for none."""
    given = labels_of(truth, rows)
    label = read_column(Store(rows.root), CONSENSUS, "label")
    known = given >= 0
    table = contingency(label[known], given[known], int(label.max()) + 1, int(truth["label"].to_numpy().max()) + 1)
    pure = table.max(axis=1) >= PURITY * np.maximum(table.sum(axis=1), 1)
    return (rows.image_ids(), given), np.where(pure, table.argmax(axis=1), -1)


@ray.remote(num_cpus=0.5)
def _suspicious(
    rows: FeatureRows, path: str, labels: tuple[np.ndarray, np.ndarray], stands_for: np.ndarray, names: Sequence[str]
) -> pa.Table:
    """Those of the images of one file of neighbours."""
    store, (ids, given) = Store(rows.root), labels
    lists = store.storage.read_table(path, ["image_id", "neighbor_ids"]).combine_chunks()
    own = lists["image_id"].to_numpy()
    first = int(np.searchsorted(ids, own[0])) if len(own) else 0
    files = tuple(CONSENSUS.files(store.require("consensus").files))
    table = FeatureRows(rows.root, files).table(
        first, first + len(own), ["image_id", "uri", "key", "label", "agreement"]
    )
    mine, suggested = given[first : first + len(own)], stands_for[table["label"].to_numpy()]
    column = lists["neighbor_ids"].combine_chunks()
    row = np.repeat(np.arange(len(own)), np.diff(column.offsets.to_numpy()))
    theirs = given[np.searchsorted(ids, column.flatten().to_numpy())]
    votes, voters = (np.bincount(row, one, len(own)) for one in (theirs == suggested[row], theirs >= 0))
    wrong = (mine >= 0) & (suggested >= 0) & (mine != suggested) & (votes > voters / 2)
    chosen = np.flatnonzero(wrong & (table["agreement"].to_numpy() >= AGREEMENT))
    called = {"label": mine[chosen].tolist(), "suggested": suggested[chosen].tolist()}
    texts = {name: pa.array([names[one] for one in column], pa.string()) for name, column in called.items()}
    found = table.take(pa.array(chosen))
    return pa.table(
        {name: found[name] for name in ("image_id", "uri", "key")} | texts | {"agreement": found["agreement"]}
    )
