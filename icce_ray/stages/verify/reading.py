"""Reading what may be damaged: columns of the right type, JSON, and the manifest's rows by image_id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.documents import parse_json
from icce_ray.io.locations import StorageError
from icce_ray.stages.features import matrix
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import MANIFEST

#: What names an image beside its id; in the manifest and wherever people read results.
NAMES = ("uri", "key")


class Unfit(Exception):
    """A file whose content cannot be what it is taken for; the message is the line to print."""


@contextmanager
def fit(what: str, path: str) -> Iterator[None]:
    """Turn the errors of reading one file into `Unfit` that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, StorageError, pa.ArrowException) as error:
        raise Unfit(f"{what}: {path} cannot be used: {type(error).__name__}: {error}") from error


def is_matrix(kind: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    """Whether a type is lists of one length of such values."""
    return lambda found: pa.types.is_fixed_size_list(found) and kind(found.value_type)


def is_lists(kind: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    """Whether a type is lists of any length of such values."""
    return lambda found: pa.types.is_large_list(found) and kind(found.value_type)


def columns(store: Store, what: str, path: str, **kinds: Callable[[pa.DataType], bool]) -> pa.Table:
    """Some columns of a file and those of `NAMES` that it has. Raises Unfit for a missing, mistyped or null one."""
    with fit(what, path):
        table = store.storage.read_table(path).combine_chunks()
    names = [name for name in NAMES if name in table.column_names]
    for name, kind in kinds.items():
        if name not in table.column_names:
            raise Unfit(f"{what}: {path} has no column {name!r}")
        if not kind(table[name].type):
            raise Unfit(f"{what}: {path} has a column {name!r} of type {table[name].type}")
        if table[name].null_count:
            raise Unfit(f"{what}: {path} has {table[name].null_count} rows without {name!r}")
    return table.select([*kinds, *(name for name in names if name not in kinds)])


def rows(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed-size list column [rows, D], nulls within as NaN or, where it is integer, -1."""
    flat = column.combine_chunks()
    if flat.flatten().null_count:
        filler = -1 if pa.types.is_integer(flat.type.value_type) else float("nan")
        values = flat.flatten().fill_null(pa.scalar(filler, flat.type.value_type)).to_numpy(zero_copy_only=False)
        return values.reshape(len(flat), flat.type.list_size)
    return matrix(flat)


def document(store: Store, what: str, path: str) -> dict[str, Any]:
    """A JSON file that holds one object. Raises Unfit for anything else."""
    with fit(what, path):
        try:
            content = parse_json(store.storage.read_bytes(path))
        except FileNotFoundError:
            raise Unfit(f"{what}: {path} is missing") from None
    if not isinstance(content, dict):
        raise Unfit(f"{what}: {path} holds no object")
    return content


class Manifest:
    """Names of the listed images by image_id; one part in memory at a time, since readers ask in order."""

    def __init__(self, store: Store, marker: Marker) -> None:
        self._store = store
        self._files = MANIFEST.files(marker.files)
        self._ends = np.cumsum([info.rows or 0 for info in self._files])
        self._held: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def parts(self) -> Iterator[tuple[str, int, pa.Table]]:
        """(path, first image_id, rows) of each part."""
        for index, info in enumerate(self._files):
            yield info.path, int(self._ends[index]) - (info.rows or 0), self._part(index)

    def misnamed(self, table: pa.Table) -> np.ndarray:
        """image_ids of rows whose names are not the manifest's; the ids must be listed ones."""
        ids = table["image_id"].to_numpy()
        wrong = np.zeros(len(ids), bool)
        part_of = np.searchsorted(self._ends, ids, side="right")
        for index in np.unique(part_of):
            mine = np.flatnonzero(part_of == index)
            part = self._part(int(index))
            start = int(self._ends[index]) - len(part)
            listed = part.take(pa.array(ids[mine] - start))
            here = table.take(pa.array(mine))
            for name in NAMES:
                pairs = zip(here[name].to_pylist(), listed[name].to_pylist(), strict=True)
                wrong[mine] |= np.array([one != other for one, other in pairs], bool)
        return ids[wrong]

    def _part(self, index: int) -> pa.Table:
        if self._held is None or self._held[0] != index:
            table = columns(self._store, "list", self._files[index].path, image_id=pa.types.is_int64)
            self._held = (index, table)
        return self._held[1]
