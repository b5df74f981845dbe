"""True labels from a file, for evaluation and for the upper bound only; no other stage reads them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.documents import shown
from icce_ray.io.user_tables import read_user_table
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MAP, MAP_TRUTH

KEYS = ("uri", "key", "path", "image_id")
_NAMES = b"classes"  # of the table's metadata


def read_truth(location: str) -> pa.Table:
    """Table with `label` (int64 classes numbered from 0) and what identifies images: uri, key or image_id.

    The file is CSV or Parquet with a column `label` (numbers or names) and one of uri, key, path (the same as uri),
    image_id. Raises RunError for any other content, for a row without label or name, and for a name that is there
    twice; StorageError as `read_user_table` does.
    """
    table = read_user_table("labels =", location, needs=["label"], one_of=KEYS)
    who = f"labels = {location}"
    name = table.column_names[1]
    key, label = _keys(who, name, table[name]), _classes(who, table["label"])
    empty = pc.call_function("or", [_empty(key), _empty(label)])
    bare = empty.to_pylist().count(True)
    if bare:
        raise RunError(f"{who}: {bare} of {len(table)} rows have no label or no {name}; leave them out")
    if len(key.unique()) != len(key):
        raise RunError(f"{who}: {len(key)} rows, but {len(key.unique())} distinct {name}; leave one of each")
    values = label.unique().sort()
    classes = _place(label, values).cast(pa.int64())
    table = pa.table({"uri" if name == "path" else name: key, "label": classes})
    return table.replace_schema_metadata({_NAMES: json.dumps([str(value) for value in values.to_pylist()])})


def class_names(truth: pa.Table) -> list[str]:
    """What the file calls each class, by its number."""
    return json.loads(truth.schema.metadata[_NAMES])


def _keys(who: str, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if name != "image_id":
        if not pa.types.is_large_string(values.type):
            raise RunError(f"{who}: the column {name} is {shown(str(values.type), plain=True)}; give text")
        return values
    try:
        if pa.types.is_large_string(values.type) or pa.types.is_integer(values.type):
            return _or_null(values, "").cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    kind = shown(str(values.type), plain=True)
    raise RunError(f"{who}: the column {name} is {kind}; give whole numbers below 2^63") from None


def _classes(who: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_floating(kind):
        return values.cast(pa.float64())  # Arrow sorts no float16
    if pa.types.is_decimal(kind):
        return values.cast(pa.large_string())
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_large_string(kind)):
        raise RunError(f"{who}: the column label is {shown(str(kind), plain=True)}; give text or numbers")
    return _or_null(values, "nan")  # as numpy and pandas write what is missing


def _or_null(values: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    """With null in place of `text`."""
    if not pa.types.is_large_string(values.type):
        return values
    is_text = pc.call_function("equal", [values, text])
    return pc.call_function("if_else", [is_text, pa.scalar(None, values.type), values])


def _empty(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where there is nothing: null, NaN, or text of no letters."""
    return _or_null(values, "").is_null(nan_is_null=pa.types.is_floating(values.type))


def labels_for(truth: pa.Table, images: pa.Table) -> np.ndarray:
    """Class of each row of `images` (image_id, uri, key), int64, -1 where the file has none.

    Raises RunError if several images bear a name, as members of different tar files may: which one is meant?
    """
    return classes_at(truth, places_for(truth, images))


def places_for(truth: pa.Table, images: pa.Table) -> np.ndarray:
    """Row of `truth` for each row of `images`, int64, -1 where there is none. Raises RunError as `labels_for` does."""
    by = truth.column_names[0]
    place = _place(images[by].cast(truth[by].type), truth[by].combine_chunks())
    matched = place.drop_null()
    if len(matched.unique()) != len(matched):
        raise shared_name(truth)
    return place.cast(pa.int64()).fill_null(-1).to_numpy()


def classes_at(truth: pa.Table, places: np.ndarray) -> np.ndarray:
    """Class in some rows of `truth`, int64, -1 for row -1."""
    return np.append(truth["label"].to_numpy(), -1)[places]


def shared_name(truth: pa.Table) -> RunError:
    """The error of labels whose key several images share."""
    return RunError(f"the labels are by {truth.column_names[0]}, which several images share; label by uri or image_id")


def _place(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> pa.Array | pa.ChunkedArray:
    """Position of each value in `among`, null where it is not there."""
    return pc.call_function("index_in", [values], pc.SetLookupOptions(among))


def labels_of(truth: pa.Table, rows: FeatureRows) -> np.ndarray:
    """Class of each accepted image, int64[N], -1 where the file has none. Raises RunError as `labels_for` does."""
    return labels_for(truth, rows.table(0, len(rows), ["image_id", "uri", "key"]))


def truth_of_rows(rows: FeatureRows, location: str) -> np.ndarray:
    """Class of each accepted image, int64[N]. Raises RunError unless all have one."""
    labels = labels_of(read_truth(location), rows)
    without = np.flatnonzero(labels < 0)
    if len(without):
        first = rows.table(int(without[0]), int(without[0]) + 1, ["uri"])["uri"][0]
        raise RunError(
            f"{location} has no label for {len(without)} of {len(labels)} images of {rows.root} (first: {first})"
        )
    return labels


def keep_map_truth(store: Store, truth: pa.Table) -> None:
    """Keep the true classes of the images of the run's map, by name, for the report; nothing for a run without a map.

    Raises RunError as `labels_for` does.
    """
    marker = store.marker(MAP.stage)
    if marker is None or not MAP.files(marker.files):
        return
    images = store.storage.read_table(MAP.path, ["image_id", "uri", "key"])
    labels = labels_for(truth, images)
    labelled = np.flatnonzero(labels >= 0)
    names = pa.array(class_names(truth), pa.string()).take(pa.array(labels[labelled]))
    table = pa.table({"image_id": images["image_id"].take(pa.array(labelled)), "label": names})
    store.storage.write_table(MAP_TRUTH, table)
