"""Predictions as one table file, written shard by shard."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.io.user_tables import column_without_formulas
from icce_ray.progress import Progress
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import PREDICTIONS

FIELDS = ("uri", "key", "label", "confidence")


def write_table(
    store: Store, marker: Marker, form: str, path: Path, progress: Progress, names: dict[int, str] | None
) -> int:
    """Write uri, key, label, confidence, and name where there are `names`, as `csv` or `parquet`; how many rows.

    Texts of the CSV are as `without_formulas` gives them.
    One shard of the predictions is in memory at a time; there must be one at least.
    """
    kind: Any = pq.ParquetWriter if form == "parquet" else pa_csv.CSVWriter
    files = PREDICTIONS.files(marker.files)
    tables = (_named(store.storage.read_table(info.path, FIELDS), names) for info in files)
    if form == "csv":
        tables = map(_without_formulas, tables)
    first = next(tables)
    done = 0
    with kind(str(path), first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            done += len(table)
            progress.update(done)
    return done


def _named(table: pa.Table, names: dict[int, str] | None) -> pa.Table:
    """With the column `name`, null where a label has none."""
    if names is None:
        return table
    return table.append_column(
        "name", pa.array([names.get(label) for label in table["label"].to_pylist()], pa.string())
    )


def _without_formulas(table: pa.Table) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name in ("uri", "key", "name"):
            table = table.set_column(index, name, column_without_formulas(table[name]))
    return table
