"""True labels from a file, for evaluation and for the upper bound only; no other stage reads them."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.adapters.locations import resolve, retried
from icce_ray.stages.rows import FeatureRows
from icce_ray.store import RunError, Store

KEYS = ("uri", "key", "path", "image_id")
_NAMES = b"classes"  # of the table's metadata


def read_truth(location: str) -> pa.Table:
    """Table with `label` (int64 classes numbered from 0) and what images are told by: uri, key or image_id.

    The file is CSV or Parquet with a column `label` (numbers or names) and one of uri, key, path (the same as uri),
    image_id. Raises RunError for any other, for a row without label or name, and for a name that is there twice.
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
    values = label.unique().sort()
    classes = _place(label, values).cast(pa.int64())
    table = pa.table({"uri" if name == "path" else name: key, "label": classes})
    return table.replace_schema_metadata({_NAMES: json.dumps([str(value) for value in values.to_pylist()])})


def class_names(truth: pa.Table) -> list[str]:
    """What the file calls each class, by its number."""
    return json.loads(truth.schema.metadata[_NAMES])


def _read(location: str) -> pa.Table:
    filesystem, path = resolve(location)

    def read() -> bytes:
        with filesystem.open_input_file(path) as file:
            return file.read()

    try:
        data = retried(read)
    except FileNotFoundError:
        raise RunError(f"labels = {location}: no such file; give CSV or Parquet with columns uri and label") from None
    # Columns of names as text, also those of digits only.
    options = pa_csv.ConvertOptions(column_types=dict.fromkeys(("uri", "key", "path"), pa.string()))
    try:
        if path.lower().endswith(".csv"):
            return pa_csv.read_csv(io.BytesIO(data), convert_options=options)
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


def labels_for(truth: pa.Table, images: pa.Table) -> np.ndarray:
    """Class of each row of `images` (image_id, uri, key), int64, -1 where the file has none.

    Raises RunError if several images bear a name, as members of different tar files may: which one is meant?
    """
    return classes_at(truth, places_for(truth, images))


def places_for(truth: pa.Table, images: pa.Table) -> np.ndarray:
    """Row of `truth` for each row of `images`, int64, -1 where there is none. Raises RunError as `labels_for` does."""
    by = truth.column_names[0]
    place = _place(images[by].cast(truth[by].type), truth[by].combine_chunks())
    known = place.drop_null()
    if len(known.unique()) != len(known):
        raise shared_name(truth)
    return place.cast(pa.int64()).fill_null(-1).to_numpy()


def classes_at(truth: pa.Table, places: np.ndarray) -> np.ndarray:
    """Class in some rows of `truth`, int64, -1 for row -1."""
    return np.append(truth["label"].to_numpy(), -1)[places]


def shared_name(truth: pa.Table) -> RunError:
    """The error of labels that do not tell images apart."""
    return RunError(f"the labels are by {truth.column_names[0]}, which several images share; label by uri or image_id")


def _place(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> pa.Array | pa.ChunkedArray:
    """Position of each value in `among`, null where it is not there."""
    return pc.call_function("index_in", [values], pc.SetLookupOptions(among))


def truth_of_rows(store: Store, rows: FeatureRows, location: str) -> np.ndarray:
    """Class of every accepted image, int64[N]. Raises RunError unless all have one."""
    table = rows.table(0, len(rows), ["image_id", "uri", "key"])
    labels = labels_for(read_truth(location), table)
    if (labels < 0).any():
        first = table["uri"][int(np.flatnonzero(labels < 0)[0])].as_py()
        raise RunError(
            f"{location} has no label for {(labels < 0).sum()} of {len(labels)} images of {store.root} (first: {first})"
        )
    return labels
