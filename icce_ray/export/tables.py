"""Predictions as one table file, written shard by shard."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.adapters.progress import StageProgress
from icce_ray.export.names import read_names
from icce_ray.store import ARTIFACTS, RunError, Store

FORMATS = ("csv", "parquet")
FIELDS = ("uri", "key", "label", "confidence")


def export_table(store: Store, form: str, out: str, progress: StageProgress, *, names: str | None = None) -> int:
    """Write uri, key, label, confidence, and name where `names` is given, to the local file `out`; how many rows.

    One shard of the predictions is in memory at a time. `out` is whole or not there. Raises RunError for an unknown
    form, a run without predictions, an `out` that is there already or is no local path, and as `read_names` does.
    """
    if form not in FORMATS:
        raise RunError(f"--format {form}: give one of {', '.join(FORMATS)}")
    if "://" in out:
        raise RunError(f"--out {out} is no local path; export to a local file and copy it")
    target = Path(out).expanduser()
    if os.path.lexists(target):
        raise RunError(f"--out {out} is there already; give a new name or remove it")
    marker = store.require("predict")
    known = read_names(names, len(marker.summary["class_sizes"])) if names is not None else None
    files = marker.rows_of(f"{ARTIFACTS['predict']}/part-")
    progress.begin(sum(info.rows or 0 for info in files), unit="images")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    writer: Any = None
    done = 0
    try:
        for info in files:
            table = _named(store.storage.read_table(info.path, FIELDS), known)
            if writer is None:
                kind: Any = pq.ParquetWriter if form == "parquet" else pa_csv.CSVWriter
                writer = kind(str(temporary), table.schema)
            writer.write_table(table)
            done += len(table)
            progress.update(done)
        if writer is None:
            raise RunError(f"{store.root} has no predictions to export: every input was rejected")
        writer.close()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _named(table: pa.Table, names: dict[int, str] | None) -> pa.Table:
    """With the column `name`, null where a label has none."""
    if names is None:
        return table
    return table.append_column(
        "name", pa.array([names.get(label) for label in table["label"].to_pylist()], pa.string())
    )
