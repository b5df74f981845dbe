"""True labels from a file, for evaluation and for the upper bound only; no other stage reads them."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.adapters.storage import Storage
from icce_ray.stages.rows import FeatureRows
from icce_ray.store import RunError, Store

KEYS = ("uri", "path", "image_id")


def read_truth(location: str) -> pa.Table:
    """Table with columns `key` (a uri as in the run, or an image_id) and `label` (int64 classes numbered from 0).

    The file is CSV or Parquet with a column `label` (numbers or names) and one of uri, path, image_id. Raises
    RunError for any other, for a row without label or key, and for a key that is there twice.
    """
    table = _read(location)
    name = next((column for column in KEYS if column in table.column_names), None)
    if name is None or "label" not in table.column_names:
        raise RunError(f"labels = {location}: has columns {table.column_names}; needs label and one of {list(KEYS)}")
    key, label = _plain(table[name]), _plain(table["label"])
    if not (pa.types.is_integer(key.type) if name == "image_id" else _is_text(key.type)):
        wanted = "a whole number" if name == "image_id" else "text"
        raise RunError(f"labels = {location}: the column {name} is {key.type}, not {wanted}")
    empty = pc.call_function("or", [_empty(key), _empty(label)])
    bare = empty.to_pylist().count(True)
    if bare:
        raise RunError(f"labels = {location}: {bare} of {len(table)} rows have no label or no {name}; leave them out")
    if len(key.unique()) != len(key):
        raise RunError(f"labels = {location}: {len(key)} rows, but {len(key.unique())} distinct {name}")
    return pa.table({"key": key, "label": _place(label, label.unique().sort()).cast(pa.int64())})


def _read(location: str) -> pa.Table:
    folder, _, name = location.rpartition("/")
    try:
        data = Storage(folder or ("/" if location.startswith("/") else ".")).read_bytes(name)
    except FileNotFoundError:
        raise RunError(f"labels = {location}: no such file; give CSV or Parquet with columns uri and label") from None
    names = pa_csv.ConvertOptions(column_types={"uri": pa.string(), "path": pa.string()})  # also those of digits only
    try:
        if name.lower().endswith(".csv"):
            return pa_csv.read_csv(io.BytesIO(data), convert_options=names)
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"labels = {location}: neither CSV (by its name) nor Parquet: {error}") from error


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as the values they stand for."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _empty(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where there is nothing: null, NaN, or text of no letters."""
    nothing = values.is_null(nan_is_null=pa.types.is_floating(values.type))
    if not _is_text(values.type):
        return nothing
    return pc.call_function("or", [nothing, pc.call_function("equal", [values.fill_null(""), ""])])


def labels_for(truth: pa.Table, image_ids: pa.Array | pa.ChunkedArray, uris: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Class of each image, int64, -1 where the file has none."""
    key = image_ids if pa.types.is_integer(truth["key"].type) else uris
    place = _place(key.cast(truth["key"].type), truth["key"].combine_chunks())
    return truth["label"].take(place).fill_null(-1).to_numpy()


def _place(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> pa.Array | pa.ChunkedArray:
    """Position of each value in `among`, null where it is not there."""
    return pc.call_function("index_in", [values], pc.SetLookupOptions(among))


def truth_of_rows(store: Store, rows: FeatureRows, location: str) -> np.ndarray:
    """Class of every accepted image, int64[N]. Raises RunError unless all have one."""
    table = rows.table(0, len(rows), ["image_id", "uri"])
    labels = labels_for(read_truth(location), table["image_id"], table["uri"])
    if (labels < 0).any():
        first = table["uri"][int(np.flatnonzero(labels < 0)[0])].as_py()
        raise RunError(
            f"{location} has no label for {(labels < 0).sum()} of {len(labels)} images of {store.root} (first: {first})"
        )
    return labels
