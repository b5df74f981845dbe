"""Parquet files as sources: which column is meant, what names a row, and rows streamed from the store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_text
from icce_ray.io.headers import HeaderError, parsing
from icce_ray.io.sources.base import LISTED, TABLE_ROWS, SourceError, SourceSpec
from icce_ray.io.sources.containers import ContainerSource, StoreFile

#: Usual names of a column that names the row, of one that holds URIs, and of one that holds features.
KEY_NAMES = ("key", "__key__", "id", "image_id", "path", "file_name", "filename", "uri", "url")
URI_NAMES = ("uri", "url", "path", "file", "file_name", "image", "image_path")
FEATURE_NAMES = ("features", "embedding", "embeddings", "feature", "image_embedding")

# Bytes asked for at a time while a column is streamed: of keys, and of images or features.
_SMALL, _BUFFER = 1 << 20, 4 << 20
# Rows that a byte of a file may stand for; a footer can announce any number.
_ROWS_PER_BYTE = 1000


def is_image(kind: pa.DataType) -> bool:
    """Bytes, or a struct with `bytes` as Hugging Face datasets write it."""
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def is_text(kind: pa.DataType) -> bool:
    """A string of any encoding."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def is_features(kind: pa.DataType) -> bool:
    """A list of floats."""
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_floating(kind.value_type)


def is_key(kind: pa.DataType) -> bool:
    """A string or an integer."""
    return is_text(kind) or types.is_integer(kind)


def candidates(schema: pa.Schema, fits: Callable[[pa.DataType], bool], names: Sequence[str] = ()) -> list[str]:
    """Columns of a fitting type; the first of the usual `names` alone if it is there."""
    fitting = [field.name for field in schema if fits(field.type)]
    usual = [name for name in names if name in fitting]
    return usual[:1] or fitting


def the_column(
    spec: SourceSpec, file: str, schema: pa.Schema, fits: Callable[[pa.DataType], bool], names: Sequence[str] = ()
) -> str:
    """`spec.column` if the file has it with a fitting type, else the only candidate. Raises SourceError."""
    found = candidates(schema, fits, names) if spec.column is None else [spec.column]
    if spec.column is not None:
        check_column(file, schema, spec.column, fits)
    if len(found) == 1:
        return found[0]
    problem = f"several columns could be meant ({', '.join(found)})" if found else "no column fits"
    raise SourceError(
        f"{file} in {spec.location!r}: {problem}; give --set list.column=NAME; it has {columns_of(schema)}"
    )


def check_column(file: str, schema: pa.Schema, column: str, fits: Callable[[pa.DataType], bool]) -> None:
    """Raises SourceError unless the file has the column once, with a fitting type."""
    indices = schema.get_all_field_indices(column)
    if len(indices) != 1:
        raise SourceError(
            f"{file} has column {column!r} {len(indices)} times; every file of a source needs it once "
            f"(--set list.column=NAME chooses another); this one has {columns_of(schema)}"
        )
    if not fits(schema.field(column).type):
        raise SourceError(
            f"{file}: column {column!r} is {schema.field(column).type}, which does not fit; give another with "
            f"--set list.column=NAME; the file has {columns_of(schema)}"
        )


def columns_of(schema: pa.Schema) -> str:
    """Names and types, for messages."""
    text = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return text if len(text) <= 1000 else text[:1000] + " ..."


def the_key_column(spec: SourceSpec, file: str, schema: pa.Schema, besides: str = "") -> str | None:
    """`spec.key_column` if the file has it, else a usual name other than `besides`, else None. Raises SourceError."""
    if spec.key_column is None:
        names = (name for name in KEY_NAMES if name != besides and len(schema.get_all_field_indices(name)) == 1)
        return next((name for name in names if is_key(schema.field(name).type)), None)
    indices = schema.get_all_field_indices(spec.key_column)
    if len(indices) != 1 or types.is_nested(schema.field(spec.key_column).type):
        raise SourceError(
            f"{file} has no plain column {spec.key_column!r}; give another with --set list.key_column=NAME; it has "
            f"{columns_of(schema)}"
        )
    return spec.key_column


def as_text(array: pa.Array) -> pa.Array:
    """Values of any scalar type as strings; of strings that are no UTF-8, as many writers leave, as names of files.

    Raises ArrowInvalid for a column of bytes that are no UTF-8.
    """
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    raw = array.cast(pa.large_binary()) if is_text(array.type) else array
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:
        if raw is array:
            raise
    else:
        if (
            raw is array
            or not pc.call_function(
                "any", [pc.call_function("match_substring", [text], pc.MatchSubstringOptions("\\x"))]
            ).as_py()
        ):
            return text
    return pa.array([None if name is None else to_text(name) for name in as_bytes(array)], pa.string())


def as_bytes(array: pa.Array) -> list[bytes | None]:
    """Bytes of strings, whether they are UTF-8 or not; nothing else in Arrow looks at them."""
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary()).to_pylist()


def numbered(name: str, container: str, first: int, count: int, keys: Sequence[pa.Array] = ()) -> pa.Table:
    """A table of `LISTED` for rows `first`, `first + 1`, ... of a file; the first of `keys` that is not null counts."""
    position = pa.array(range(first, first + count), pa.int64())
    number = position.cast(pa.string())
    return pa.table(
        {
            "uri": pc.call_function("binary_join_element_wise", [name, number, "/"]),
            "key": pc.call_function("coalesce", [*keys, number]),
            "size": pa.nulls(count, pa.int64()),
            "container": pa.repeat(pa.scalar(container), count),
            "position": position,
        },
        LISTED,
    )


def parquet_of(file: StoreFile, metadata: pq.FileMetaData | None = None, *, buffer: int = _BUFFER) -> pq.ParquetFile:
    """The file as Parquet, to be streamed: a column is read a few MiB at a time, not a row group at a time.

    Raises HeaderError for a file that is none, or whose footer says what cannot be.
    """
    with parsing():
        parquet = pq.ParquetFile(file, metadata=metadata, pre_buffer=False, buffer_size=buffer)
        _ = [name.encode() for name in parquet.schema_arrow.names]
        found = parquet.metadata
        groups = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != found.num_rows or sum(groups) > _ROWS_PER_BYTE * file.size:
            raise ValueError(f"its footer announces {found.num_rows} rows")
        return parquet


def opened(source: ContainerSource, container: str) -> pq.ParquetFile:
    """A container as Parquet, for listing. Raises SourceError, naming it, if it is none or cannot be read."""
    name = source.name_of(container)
    file = source.open(container, least=1 << 16, most=1 << 16)
    if isinstance(file, Reject):
        raise SourceError(f"{name} in {source.spec.location!r} cannot be read: {file}")
    try:
        return parquet_of(file, buffer=_SMALL)
    except HeaderError as error:
        file.close()
        raise SourceError(
            f"{name} in {source.spec.location!r} is no whole Parquet file ({file.size} bytes): {error}; write it again "
            "or take it out"
        ) from error


def batches(
    parquet: pq.ParquetFile,
    name: str,
    columns: list[str],
    *,
    rows: int = TABLE_ROWS,
    row_groups: list[int] | None = None,
) -> Generator[tuple[int, pa.RecordBatch]]:
    """(number of the first row read, batch) of columns of small values. Raises SourceError for damaged content."""
    first = 0
    try:
        for batch in streamed(parquet, columns, rows=rows, row_groups=row_groups):
            yield first, batch
            first += len(batch)
    except HeaderError as error:
        raise SourceError(f"{name}: rows from {first} on cannot be read: {error}; write the file again") from error


def streamed(
    parquet: pq.ParquetFile, columns: list[str], *, rows: int, row_groups: list[int] | None
) -> Generator[pa.RecordBatch]:
    """Batches of columns. Raises HeaderError for damaged content."""
    with parsing():
        coming = parquet.iter_batches(rows, row_groups=row_groups, columns=columns, use_threads=False)
    while True:
        with parsing():
            batch = next(coming, None)
        if batch is None:
            return
        yield batch


def listed(source: ContainerSource, container: str, parquet: pq.ParquetFile, keys: list[str]) -> Iterator[pa.Table]:
    """Tables of `LISTED` of one file, its keys from the columns `keys` (`a.b` is a field of a struct)."""
    name, rows = source.name_of(container), parquet.metadata.num_rows
    for key in keys:
        check_column(name, parquet.schema_arrow, _parent(parquet.schema_arrow, key), lambda _: True)
    if not keys:
        for first in range(0, rows, TABLE_ROWS):
            yield numbered(name, container, first, min(TABLE_ROWS, rows - first))
        return
    for first, batch in batches(parquet, name, keys):
        yield numbered(name, container, first, len(batch), [text_column(batch, key, name, first) for key in keys])


def text_column(batch: pa.RecordBatch, column: str, name: str, first: int) -> pa.Array:
    """A column as strings; `first` is the number of the first row, for the SourceError if they are none."""
    try:
        return as_text(_column(batch, column))
    except pa.ArrowException as error:
        raise SourceError(
            f"{name}: column {column!r} holds no text in rows {first} to {first + len(batch) - 1}: {error}; give "
            "another one with --set list.column=NAME or list.key_column=NAME"
        ) from error


def field_of(structs: pa.Array, field: str) -> pa.Array:
    """A field of a struct array; null where the struct is."""
    return pc.call_function("struct_field", [structs], pc.StructFieldOptions([field]))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    parent = _parent(batch.schema, name)
    column = batch.column(parent)
    return column if parent == name else field_of(column, name.removeprefix(f"{parent}."))


def _parent(schema: pa.Schema, name: str) -> str:
    """The column that `name` is, or is a field of."""
    return name if name in schema.names or "." not in name else name.rpartition(".")[0]
