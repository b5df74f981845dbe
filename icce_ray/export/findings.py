"""What a run found out about its images, as tables for other tools: a row an image, by uri and key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from icce_ray.export.files import TABLES, free_target, whole, write_table
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store, UsageError, check_files
from icce_ray.store.artifacts import DUPLICATES, LABEL_ISSUES, OUTLIERS, QUALITY, STAGES, Table


class Finding(NamedTuple):
    """One kind of findings: what holds it, and what to say where a run has none of it."""

    table: Table
    remedy: str


AGAIN = "the run's own `icce run` command, given again with this version, adds what is missing"
#: By the name of their form.
FINDINGS = {
    "duplicates": Finding(DUPLICATES, AGAIN),
    "outliers": Finding(OUTLIERS, AGAIN),
    "label-issues": Finding(LABEL_ISSUES, "`icce evaluate RUN --labels FILE` finds them"),
    "quality": Finding(
        QUALITY,
        f"{AGAIN}; images embedded by an earlier version were not measured: --redo embed measures them, and features "
        "that were made elsewhere have no images to measure",
    ),
}


def export_findings(store: Store, form: str, out: str, progress: Progress) -> int:
    """Write the findings `form`, one of FINDINGS, to `out`, a new local .csv or .parquet file; how many rows.

    All columns but image_id, in the order of the images. No finding makes a table without rows. `out` is whole or not
    there. Raises UsageError for an `out` of another ending; RunError for a run without these findings, and an `out`
    that is there already or is no local path.
    """
    kind = Path(out).suffix.lower().removeprefix(".")
    if kind not in TABLES:
        raise UsageError(f"--out {out} does not say which table to write; end it with .csv or .parquet")
    target, finding = free_target(out), FINDINGS[form]
    paths, count = _files(store, finding), 0
    progress.begin(len(paths), unit="shards")
    with whole(target) as path:
        for done, rows in enumerate(write_table(_tables(store, finding.table, paths), kind, path)):
            count += rows
            progress.update(done)
    return count


def _files(store: Store, finding: Finding) -> list[str]:
    """Paths of the files of a finding. Raises RunError where there are none."""
    table, paths = finding.table, []
    if table.stage in STAGES:
        check_files(store, table.stage)
        marker = store.marker(table.stage)
        paths = [info.path for info in table.files(marker.files)] if marker else []
    elif store.storage.exists(table.path):
        paths = [table.path]
    if not paths:
        raise RunError(f"{store.root} has no {table.path}: {finding.remedy}")
    return paths


def _tables(store: Store, table: Table, paths: list[str]) -> Iterator[pa.Table]:
    columns = [name for name in table.columns if name != "image_id"]
    yield table.schema().empty_table().select(columns)
    for path in paths:
        yield store.storage.read_table(path, columns)
