"""Some images of each true class in each class, for people to look at: `icce evaluate` keeps them for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.io.storage import Storage
from icce_ray.store.artifacts import TRUE_EXAMPLES

#: Images kept of each class and true class, and true classes of each class: those that are most frequent in it.
EXAMPLES, TRUE_CLASSES = 12, 5


def examples(ids: NDArray[np.int64], label: NDArray[np.integer], true: NDArray[np.integer]) -> pa.Table:
    """The first EXAMPLES of `ids` [n] for each pair of label and true class: image_id, label, true."""
    order = np.lexsort((ids, true, label))
    ids, label, true = ids[order], label[order], true[order]
    starts = np.append(True, (np.diff(label) != 0) | (np.diff(true) != 0))[: len(ids)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ids)), 0))
    kept = np.arange(len(ids)) - first < EXAMPLES
    columns = (ids[kept].astype(np.int64), label[kept].astype(np.int64), true[kept].astype(np.int64))
    return pa.table(dict(zip(("image_id", "label", "true"), columns, strict=True)))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """`examples` of all images whose parts have given these tables."""
    table = pa.concat_tables(tables)
    return examples(*(table[name].to_numpy() for name in ("image_id", "label", "true")))


def write_examples(storage: Storage, found: pa.Table, table: NDArray[np.integer], names: Sequence[str]) -> None:
    """Write those of the most frequent true classes: image_id, label, true by its name, most frequent first.

    `table` int[K, T] counts images of each class and true class.
    """
    ranks = np.argsort(np.argsort(-table, axis=1, kind="stable"), axis=1)
    label, true = (found[name].to_numpy() for name in ("label", "true"))
    rank = ranks[label, true]
    order = np.lexsort((found["image_id"].to_numpy(), rank, label))
    kept = found.take(pa.array(order[rank[order] < TRUE_CLASSES]))
    named = pa.array([names[one] for one in kept["true"].to_pylist()], pa.string())
    storage.write_table(TRUE_EXAMPLES, kept.set_column(2, "true", named))
