"""Images in a column of Parquet files, as Hugging Face datasets and img2dataset write them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, repeat

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from icce_ray.io.decode import Reject
from icce_ray.io.headers import HeaderError
from icce_ray.io.sources import columns
from icce_ray.io.sources.base import SourceError, SourceSpec
from icce_ray.io.sources.containers import ContainerSource, one_ahead
from icce_ray.io.sources.fetch import too_large

#: Bytes of images decoded from Parquet at a time, where rows are of usual size.
_BATCH_BYTES = 8 << 20
#: Bytes that a row group may unpack to, however few it has, and how many times its own beyond that. A bomb holds
#: thousands of times as much; Arrow unpacks a page, and in it images of any size, before anybody sees their length.
_UNPACKED, _TIMES = 256 << 20, 100
#: Footers kept for files that are read piece by piece.
_FOOTERS = 16
# What img2dataset says of a row without an image.
_EXCUSES = ("status", "error_message")


class ParquetSource(ContainerSource):
    """A binary column, or a struct column with `bytes` (and `path`), of every Parquet file.

    `uri` is the file's path and the row's number. `key` is `spec.key_column`, else the struct's `path`, else the first
    of the columns key, __key__, id, image_id, path, file_name, filename, uri, url that is text or whole numbers, else
    the row's number; a row whose key is null takes the next of these that it has.

    Reading holds a batch of about 8 MiB, but Parquet itself has no way to a row: all rows before it in its row group
    are unpacked (and fetched) too, and never less than one page, which is up to 1,024 rows from most writers. Tasks
    that share a row group repeat that; files written for training with row groups of 100 to 1,000 images cost nothing.
    """

    endings = (".parquet",)

    def __init__(self, spec: SourceSpec) -> None:
        """Looks for the column where `spec` names none. Raises SourceError if it cannot be told."""
        super().__init__(spec)
        self._footers: dict[str, tuple[pq.FileMetaData, list[int]]] = {}
        if spec.column is None:
            container = first_file(self)
            with columns.opened(self, container) as parquet:
                schema = parquet.schema_arrow
            column = columns.the_column(spec, self.name_of(container), schema, columns.is_image)
            self.spec = replace(spec, column=column)

    def listing(self) -> Iterator[pa.Table]:
        """One row a row; reads the keys only, of several files at a time."""
        count = 0
        keys = self._keys()
        for table in one_ahead(self._tables(container, keys) for container, _ in self.containers()):
            count += len(table)
            yield table
        if not count:
            raise self.nothing("the Parquet files have no rows")

    def _keys(self) -> list[str]:
        """Columns that name the rows, the first that is not null counting, as the first file has them."""
        container = first_file(self)
        with columns.opened(self, container) as parquet:
            schema = parquet.schema_arrow
        columns.check_column(self.name_of(container), schema, self._column, columns.is_image)
        key = columns.the_key_column(self.spec, self.name_of(container), schema, besides=self._column)
        kind = schema.field(self._column).type
        has_path = self.spec.key_column is None and types.is_struct(kind) and kind.get_field_index("path") >= 0
        return [*([f"{self._column}.path"] if has_path else []), *([key] if key is not None else [])]

    def _tables(self, container: str, keys: list[str]) -> Generator[pa.Table]:
        with columns.opened(self, container) as parquet:
            columns.check_column(self.name_of(container), parquet.schema_arrow, self._column, columns.is_image)
            yield from columns.listed(self, container, parquet, keys)

    @property
    def _column(self) -> str:
        if self.spec.column is None:
            raise AssertionError("the constructor has found the column")
        return self.spec.column

    def spans(self, rows: pa.Table) -> list[tuple[int, int]]:
        """Rows of one row group together. Reads the files' footers."""
        spans: list[tuple[int, int]] = []
        begin, before = 0, None
        last = -1
        for row, (container, position) in enumerate(
            zip(rows["container"].to_pylist(), rows["position"].to_pylist(), strict=True)
        ):
            place = (container, self._group(container, position))
            if row and (place != before or position <= last):
                spans.append((begin, row))
                begin = row
            before, last = place, position
        return [*spans, (begin, len(rows))] if len(rows) else []

    def read(self, rows: pa.Table, *, max_bytes: int) -> Iterator[bytes | Reject]:
        """The bytes of the rows: one pass through a row group for all rows of it."""
        for begin, end in self.spans(rows):
            container = rows["container"][begin].as_py()
            positions = rows["position"].slice(begin, end - begin).to_pylist()
            done = 0
            try:
                with closing(self._read_group(container, positions, max_bytes)) as images:
                    for image in images:
                        yield image
                        done += 1
            except HeaderError as error:
                reject = Reject("unreadable", f"damaged Parquet file: {error}")
                yield from repeat(reject, len(positions) - done)

    def _group(self, container: str, position: int) -> int:
        """The row group of a row; -1 for all rows of a file whose footer cannot be read."""
        try:
            footer = self._footer(container)
        except HeaderError:
            return -1  # `read` says why
        return -1 if isinstance(footer, Reject) else bisect_right(footer[1], position) - 1

    def _footer(self, container: str) -> tuple[pq.FileMetaData, list[int]] | Reject:
        """The footer and the first row of each row group, with the number of all rows last."""
        footer = self._footers.get(container)
        if footer is None:
            file = self.open(container, least=1 << 16, most=1 << 16)
            if isinstance(file, Reject):
                return file
            with file, columns.parquet_of(file) as parquet:
                metadata = parquet.metadata
            groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            footer = (metadata, list(accumulate(groups, initial=0)))
            if len(self._footers) >= _FOOTERS:
                self._footers.clear()
            self._footers[container] = footer
        return footer

    def _read_group(self, container: str, positions: list[int], max_bytes: int) -> Generator[bytes | Reject]:
        """Images of rows of one row group, `positions` ascending."""
        footer = self._footer(container)
        file = footer if isinstance(footer, Reject) else self.open(container)
        if isinstance(footer, Reject) or isinstance(file, Reject):
            yield from repeat(file, len(positions))  # pyright: ignore[reportArgumentType, reportReturnType]
            return
        metadata, starts = footer
        group = bisect_right(starts, positions[0]) - 1
        if group >= metadata.num_row_groups:
            reject = Reject("unreadable", f"the file has only {starts[-1]} rows now")
            yield from repeat(reject, len(positions))
            return
        with file, columns.parquet_of(file, metadata) as parquet:
            columns.check_column(self.name_of(container), parquet.schema_arrow, self._column, columns.is_image)
            yield from self._rows(parquet, group, [position - starts[group] for position in positions], max_bytes)

    def _rows(self, parquet: pq.ParquetFile, group: int, wanted: list[int], max_bytes: int) -> Iterator[bytes | Reject]:
        """Images of a row group, `wanted` counted from its start; stops reading behind the last."""
        names = [self._column, *(name for name in _EXCUSES if name in parquet.schema_arrow.names)]
        chunk = _chunk(parquet.metadata, group, self._column)
        if reject := _too_much(chunk, max_bytes):
            yield from repeat(reject, len(wanted))
            return
        coming, first = iter(wanted), 0
        row = next(coming, None)
        size = _batch_rows(parquet.metadata, group, chunk)
        for batch in columns.streamed(parquet, names, rows=size, row_groups=[group]):
            while row is not None and row < first + len(batch):
                yield self._image(batch, row - first, max_bytes)
                row = next(coming, None)
            if row is None:
                return
            first += len(batch)

    def _image(self, batch: pa.RecordBatch, row: int, max_bytes: int) -> bytes | Reject:
        column = batch.column(self._column)
        data = columns.field_of(column, "bytes") if types.is_struct(column.type) else column
        buffer = data[row].as_buffer()
        if buffer is None:
            return Reject("empty", _excuse(batch, row, column))
        if buffer.size > max_bytes:
            return too_large(buffer.size, max_bytes)
        return buffer.to_pybytes() if buffer.size else Reject("empty", "the row has 0 bytes")


def _chunk(metadata: pq.FileMetaData, group: int, column: str) -> pq.ColumnChunkMetaData:
    """What the footer says of the images of a row group."""
    found = metadata.row_group(group)
    chunks = [found.column(number) for number in range(found.num_columns)]
    return next(chunk for chunk in chunks if chunk.path_in_schema in (column, f"{column}.bytes"))


def _too_much(chunk: pq.ColumnChunkMetaData, max_bytes: int) -> Reject | None:
    """The reject of images that are too large on average, or of a row group that unpacks to far more than it is."""
    unpacked, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
    if unpacked > max_bytes * max(1, chunk.num_values):
        return too_large(unpacked // max(1, chunk.num_values), max_bytes)
    if unpacked <= max(_UNPACKED, _TIMES * stored):
        return None
    return Reject(
        "too_many_bytes",
        f"the row group unpacks from {stored} bytes to {unpacked}; the limit is {_UNPACKED}, or {_TIMES} times; write "
        "fewer rows into a row group",
    )


def _batch_rows(metadata: pq.FileMetaData, group: int, chunk: pq.ColumnChunkMetaData) -> int:
    """Rows of a batch of about `_BATCH_BYTES`, all columns counted: too few rather than too many.

    An image that a dictionary holds once may be that of every row, so that no more are read than have room if so.
    """
    of_group = metadata.row_group(group)
    rows = of_group.num_rows * _BATCH_BYTES // max(1, of_group.total_byte_size)
    if chunk.has_dictionary_page:
        begin, end = chunk.dictionary_page_offset or 0, chunk.data_page_offset
        longest = max(0, end - begin) + max(0, chunk.total_uncompressed_size - chunk.total_compressed_size)
        rows = min(rows, _BATCH_BYTES // max(1, longest))
    return max(1, min(1024, rows))


def _excuse(batch: pa.RecordBatch, row: int, column: pa.Array) -> str:
    said = [_text(batch.column(name), row) for name in _EXCUSES if name in batch.schema.names]
    if said:
        return f"the row has no bytes: {': '.join(map(str, said))}"[:300]
    kind = column.type
    has_path = types.is_struct(kind) and kind.get_field_index("path") >= 0
    path = _text(columns.field_of(column, "path"), row) if has_path else None
    return "the row has no bytes" + ("" if path is None else f", only the path {path!r} of another machine")


def _text(array: pa.Array, row: int) -> str | None:
    value = array.slice(row, 1)
    return (columns.as_text(value) if columns.is_text(value.type) else value)[0].as_py()


def first_file(source: ContainerSource) -> str:
    """The container with the first name. Raises SourceError if there is none."""
    left_out: Counter[str] = Counter()
    found = next(source.found(left_out), None)
    if found is None:
        source.left_out.update(left_out)
        raise source.nothing("no such file")
    return found[0]


def parquet_format(spec: SourceSpec, first_parquet: str) -> str:
    """What Parquet files hold, by the column types of one of them: images, else features, else URIs.

    Args:
        spec: the source; with a `column` that column decides.
        first_parquet: the file's path below the source, "" for a source that is one file.

    Raises SourceError, listing the columns, if they hold none of these.
    """
    looking = _Looking(spec)
    with columns.opened(looking, first_parquet) as parquet:
        schema = parquet.schema_arrow
    name = looking.name_of(first_parquet)
    if spec.column is not None:
        columns.check_column(name, schema, spec.column, lambda _: True)
        schema = pa.schema([schema.field(spec.column)])
    if columns.candidates(schema, columns.is_image):
        return "parquet"
    if columns.candidates(schema, columns.is_features):
        return "features"
    if columns.candidates(schema, columns.is_text):
        return "uris"
    raise SourceError(
        f"{name} in {spec.location!r} holds no column of images (bytes), of features (lists of floats) or of URIs "
        f"(text), but {columns.columns_of(schema)}"
    )


class _Looking(ContainerSource):
    """A source of which nothing is known yet but that it holds Parquet files."""

    endings = (".parquet",)

    def listing(self) -> Iterator[pa.Table]:
        raise TypeError("only for looking at a file")

    def read(self, rows: pa.Table, *, max_bytes: int) -> Iterator[bytes | Reject]:
        raise TypeError("only for looking at a file")
