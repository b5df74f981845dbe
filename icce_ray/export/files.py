"""What an export writes: a local file or folder that is whole or not there, and tables as CSV or Parquet."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.io.user_tables import column_without_formulas
from icce_ray.store import RunError

TABLES = ("csv", "parquet")


def free_target(out: str) -> Path:
    """The local path of `out`. Raises RunError if it is there already or is no local path."""
    if "://" in out:
        raise RunError(f"--out {out} is no local path; export to a local one and copy it")
    target = Path(out).expanduser()
    if os.path.lexists(target):
        raise RunError(f"--out {out} is there already; give a new name or remove it")
    return target


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or folder to; it gets its name at the end, and is removed on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.rename(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_table(tables: Iterable[pa.Table], form: str, path: Path) -> Iterator[int]:
    """Write tables of one schema, of which there is one at least, as `csv` or `parquet`; rows of each.

    Texts of the CSV are as `without_formulas` gives them.
    """
    kind: Any = pq.ParquetWriter if form == "parquet" else pa_csv.CSVWriter
    ready = map(_safe, tables) if form == "csv" else iter(tables)
    first = next(ready)
    with kind(str(path), first.schema) as writer:
        for table in chain([first], ready):
            writer.write_table(table)
            yield len(table)


def _safe(table: pa.Table) -> pa.Table:
    """The table without what a spreadsheet would run."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(index, field.name, column_without_formulas(table[field.name]))
    return table
