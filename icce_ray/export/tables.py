"""Predictions beside the columns of the table that a run was made from, as a `datasets` folder or a Lance dataset."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.documents import DocumentError, parse_json
from icce_ray.export.names import class_names
from icce_ray.io.filenames import to_bytes
from icce_ray.io.locations import SourceError
from icce_ray.io.sources import columns, find_source, found_source
from icce_ray.io.sources.lance import LanceError, lance_errors, lance_library
from icce_ray.io.sources.tables import TableSource
from icce_ray.io.stores import is_local, resolve
from icce_ray.store import Marker, RunError, Store
from icce_ray.store.artifacts import PREDICTIONS

FORMS = ("datasets", "lance")
#: Columns that are added to a table of the user's own, which may have a `label` already.
LABEL, CONFIDENCE, NAME = "icce_label", "icce_confidence", "icce_name"
#: Bytes of a file of a `datasets` folder, about, as `save_to_disk` has it.
FILE_BYTES = 500 << 20
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Names = dict[int, str] | None
Batches = Iterator[pa.RecordBatch]


def write_labelled_table(form: str, store: Store, marker: Marker, folder: Path, names: Names) -> Iterator[int]:
    """Write every row of the run's table with its label, or every prediction; labelled rows of each batch.

    Of a source that is a table (Parquet, `datasets`, Lance) all rows and columns stay, in their order; LABEL,
    CONFIDENCE and NAME are added, null for rejected images. Of others: uri, key, label, confidence, name, and where the
    images are files of a local folder `image`, their path. Memory holds some MiB of rows.

    Raises RunError for a table that has changed since the run or has such columns, SourceError for one that cannot be
    read, and where Lance is not installed.
    """
    source = _table_of(store)
    batches = _predictions(store, marker, names) if source is None else _joined(store, marker, source, names)
    label = "label" if source is None else LABEL
    classes = class_names(names or {}, len(marker.summary["class_sizes"]))
    if form == "lance":
        return _write_lance(batches, folder, label)
    return _write_datasets(batches, folder, label, classes)


def _table_of(store: Store) -> TableSource | None:
    """The run's source if it is a table as it was when it was listed, None if it is none."""
    listed = store.require("list")
    if listed.summary["source"]["column"] is None:
        return None
    location, _ = store.images()
    source = find_source(found_source(location, listed.summary))
    if not isinstance(source, TableSource):
        return None
    if not source.versioned:
        for _ in source.files():
            pass
        if source.digest() != listed.summary["digest"]:
            raise _changed(store, location)
    return source


def _changed(store: Store, location: str) -> RunError:
    return RunError(
        f"{location} has changed since {store.root} was listed, so that its rows are not those that were labelled; put "
        "the table back as it was, or export with --format parquet and join by key"
    )


# -- rows ----------------------------------------------------------------------------------------------------------


def _joined(store: Store, marker: Marker, source: TableSource, names: Names) -> Batches:
    """All rows of the table with label, confidence and name."""
    listed = store.require("list")
    if source.versioned:
        containers = [store.storage.read_table(listed.files[0].path, ["container"])["container"][0].as_py()]
    else:
        containers = [path for path, _ in source.counted()]
    labels, schema = _Labels(store, marker), None
    for container in containers:
        for batch in source.whole_rows(container):
            schema = schema or _plain(batch.schema, source)
            try:
                rows = pa.record_batch([_utf8(batch.column(one.name)).cast(one.type) for one in schema], schema)
            except (KeyError, ValueError, pa.ArrowException) as error:
                raise SourceError(
                    f"{source.name_of(container)} has other columns than the first table of the source: {error}"
                ) from error
            label, confidence = labels.take(len(rows))
            added = zip((LABEL, CONFIDENCE, NAME), (label, confidence, _named(label, names)), strict=True)
            for name, values in added:
                rows = rows.append_column(name, values)
            yield rows
    if labels.at != listed.summary["images"]:
        raise _changed(store, source.spec.location)


def _plain(schema: pa.Schema, source: TableSource) -> pa.Schema:
    """The table's columns, categories as what they stand for. Raises RunError where one has a name of ours."""
    ours, names = (LABEL, CONFIDENCE, NAME), schema.names
    taken = [name for name in dict.fromkeys(names) if name in ours or names.count(name) > 1]
    if taken:
        raise RunError(
            f"{source.spec.location} has columns {', '.join(taken)} already; rename or drop them, or export with "
            "--format parquet and join by key"
        )
    fields = [
        pa.field(one.name, one.type.value_type if pa.types.is_dictionary(one.type) else one.type) for one in schema
    ]
    return pa.schema(fields, schema.metadata)


def _predictions(store: Store, marker: Marker, names: Names) -> Batches:
    """Every prediction, and the path of its image where that is a file below a local folder."""
    filesystem, base = resolve(store.images()[0])
    listed = store.require("list").summary["source"]["format"]
    for info in PREDICTIONS.files(marker.files):
        table = store.storage.read_table(info.path, ("image_id", "uri", "key", "label", "confidence"))
        table = table.sort_by("image_id").drop_columns(["image_id"])
        label = table["label"].cast(pa.int64()).combine_chunks()
        table = table.set_column(2, "label", label).append_column("name", _named(label, names))
        if listed == "files" and is_local(filesystem):
            paths = [f"{base}/{uri}" if to_bytes(uri) == uri.encode() else None for uri in table["uri"].to_pylist()]
            image = pa.StructArray.from_arrays(
                [pa.nulls(len(paths), pa.binary()), pa.array(paths)], fields=_IMAGE.fields
            )
            table = table.append_column("image", image)
        yield from table.combine_chunks().to_batches()


def _named(label: pa.Array, names: Names) -> pa.Array:
    return pa.array([None if one is None else (names or {}).get(one) for one in label.to_pylist()], pa.string())


def _utf8(values: pa.Array) -> pa.Array:
    """Text as it is, but as keys are shown where a column is not UTF-8, which nobody could read again."""
    if not columns.is_text(values.type):
        return values
    text = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    try:
        return text.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return columns.as_text(text)


class _Labels:
    """Labels and confidences in the order of the images, null for those without; `at` is the next image_id."""

    def __init__(self, store: Store, marker: Marker) -> None:
        self.at = 0
        files = PREDICTIONS.files(marker.files)
        self._coming = (store.storage.read_table(info.path, ("image_id", "label", "confidence")) for info in files)
        self._waiting: pa.Table | None = next(self._coming, None)

    def take(self, count: int) -> tuple[pa.Array, pa.Array]:
        """Of the next `count` images, int64 and float32."""
        labels, confidences = np.zeros(count, np.int64), np.zeros(count, np.float32)
        missing, end = np.ones(count, bool), self.at + count
        while self._waiting is not None:
            ids = self._waiting["image_id"].to_numpy()
            here = ids < end
            rows = ids[here] - self.at
            labels[rows] = self._waiting["label"].to_numpy()[here]
            confidences[rows] = self._waiting["confidence"].to_numpy()[here]
            missing[rows] = False
            if not here.all():
                self._waiting = self._waiting.filter(pa.array(~here))
                break
            self._waiting = next(self._coming, None)
        self.at = end
        return pa.array(labels, mask=missing), pa.array(confidences, mask=missing)


# -- forms ---------------------------------------------------------------------------------------------------------


def _labelled(batch: pa.RecordBatch, label: str) -> int:
    return len(batch) - batch.column(label).null_count


def _write_datasets(batches: Batches, folder: Path, label: str, classes: list[str]) -> Iterator[int]:
    """As `save_to_disk` leaves a dataset: Arrow streams of about FILE_BYTES, `state.json` and `dataset_info.json`."""
    folder.mkdir()
    parts: list[Path] = []
    with ExitStack() as stack:
        writer, schema, size = None, None, 0
        for batch in batches:
            schema = schema or _with_features(batch.schema, label, classes)
            if writer is None or size >= FILE_BYTES:
                stack.close()
                parts.append(folder / f"{len(parts)}.part")
                file = stack.enter_context(pa.OSFile(str(parts[-1]), "wb"))
                writer, size = stack.enter_context(pa.ipc.new_stream(file, schema)), 0
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            size += batch.nbytes
            yield _labelled(batch, label)
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.rename(folder / name)
    unset = dict.fromkeys(("_format_columns", "_format_type", "_split"))
    state = unset | {"_format_kwargs": {}, "_output_all_columns": False, "_fingerprint": uuid.uuid4().hex[:16]}
    state["_data_files"] = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text("{}")


def _with_features(schema: pa.Schema, label: str, classes: list[str]) -> pa.Schema:
    """The schema with what `datasets` keeps of its features in the metadata: images, and names of the classes."""
    features: dict[str, Any] = {}
    try:
        known = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features |= known["info"]["features"]
    except (DocumentError, KeyError, TypeError):  # not from `datasets`, which takes the types of Arrow without it
        features = {}
    features |= {
        field.name: {"_type": "Image"} for field in schema if field.name not in features and field.type == _IMAGE
    }
    if len(set(classes)) == len(classes):
        features[label] = {"_type": "ClassLabel", "names": classes}
    # Features that the metadata names count where the column has their type; of the others it takes Arrow's.
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _write_lance(batches: Batches, folder: Path, label: str) -> Iterator[int]:
    """One version of one dataset, written as the rows come."""
    library, counts, failed = lance_library(), [0], []
    first = next(batches)

    def watched(coming: Iterable[pa.RecordBatch]) -> Batches:
        """An error on the way through Arrow's C interface would lose its type."""
        try:
            for batch in coming:
                counts[0] += _labelled(batch, label)
                yield batch
        except (OSError, ValueError, RunError) as error:
            failed.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(first.schema, watched(chain([first], batches)))
    try:
        with lance_errors():
            library.write_dataset(reader, str(folder))
    except (LanceError, OSError) as error:
        raise failed[0] if failed else RunError(f"Lance cannot write this table: {error}") from error
    yield counts[0]
