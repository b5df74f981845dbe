"""Names of clusters, as a person gives them in a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from icce_ray.store import RunError

COLUMNS = ("label", "name")


def read_names(path: str, classes: int) -> dict[int, str]:
    """Name of each label that the CSV file `path` (columns label, name) gives one.

    Raises RunError for a file that cannot be read, a missing column, and a label that is no whole number from 0 to
    `classes` - 1 or is there twice.
    """
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise RunError(f"--names {path}: has columns {rows.fieldnames}; needs label and name")
            pairs = [(rows.line_num, row["label"] or "", row["name"] or "") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"--names {path} cannot be read: {error}; give a CSV file in UTF-8") from error
    names: dict[int, str] = {}
    for line, text, name in pairs:
        label = int(text) if text.strip().isascii() and text.strip().isdigit() else -1
        if not 0 <= label < classes:
            raise RunError(f"--names {path}, line {line}: label = {text!r}; give one from 0 to {classes - 1}")
        if label in names:
            raise RunError(f"--names {path}, line {line}: label {label} is there twice; give each one name")
        names[label] = name
    return names
