"""Images in a column of Parquet files, as Hugging Face datasets and img2dataset write them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import accumulate, repeat

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError
from icce_ray.io.sources import columns, tables
from icce_ray.io.sources.base import SourceSpec, asked_columns
from icce_ray.io.sources.fetch import too_large
from icce_ray.io.stores import HeaderError

#: Bytes of images decoded from Parquet at a time, where rows are of usual size.
_BATCH_BYTES = 8 << 20
#: Bytes that a row group may unpack to, however few it has, and how many times its own beyond that. A bomb holds
#: thousands of times as much; Arrow unpacks a page, and in it images of any size, before anybody sees their length.
_UNPACKED, _TIMES = 256 << 20, 100
#: Footers kept for files that are read piece by piece.
_FOOTERS = 16
# What img2dataset says of a row without an image.
_EXCUSES = ("status", "error_message")


class ParquetSource(tables.ParquetRows):
    """A binary column, or a struct column with `bytes` (and `path`), of every Parquet file.

    Reading holds a batch of about 8 MiB, but Parquet itself has no way to a row: all rows before it in its row group
    are unpacked (and fetched) too, and never less than one page, which is up to 1,024 rows from most writers. Tasks
    that share a row group repeat that; files written for training with row groups of 100 to 1,000 images cost nothing.
    """

    fits = staticmethod(columns.is_image)

    def __init__(self, spec: SourceSpec) -> None:
        """See `ParquetRows`."""
        super().__init__(spec)
        self._footers: dict[str, tuple[pq.FileMetaData, list[int]]] = {}

    def begins(self, rows: pa.Table) -> Iterator[bool]:
        """Rows of one row group are read together. Reads the files' footers."""
        before, last = None, -1
        for container, position in zip(rows["container"].to_pylist(), rows["position"].to_pylist(), strict=True):
            place = (container, self._group(container, position))
            yield place != before or position <= last
            before, last = place, position

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """The bytes of rows of one row group, in one pass through it."""
        positions, done = rows["position"].to_pylist(), 0
        try:
            for image in self._read_group(rows["container"][0].as_py(), positions, max_bytes):
                yield image
                done += 1
        except (Reject, HeaderError) as error:
            damaged = isinstance(error, HeaderError)
            reject = Reject("unreadable", f"damaged Parquet file: {error}") if damaged else error
            yield from repeat(reject, len(positions) - done)

    def _group(self, container: str, position: int) -> int:
        """The row group of a row; -1 for all rows of a file whose footer cannot be read."""
        try:
            return bisect_right(self._footer(container)[1], position) - 1
        except (Reject, HeaderError):
            return -1  # `read` says why

    def _footer(self, container: str) -> tuple[pq.FileMetaData, list[int]]:
        """The footer and the first row of each row group, with the number of all rows last."""
        footer = self._footers.get(container)
        if footer is None:
            file = self.open(container, least=1 << 16, most=1 << 16)
            with file, columns.parquet_of(file) as parquet:
                metadata = parquet.metadata
            groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            footer = (metadata, list(accumulate(groups, initial=0)))
            if len(self._footers) >= _FOOTERS:
                self._footers.clear()
            self._footers[container] = footer
        return footer

    def _read_group(self, container: str, positions: list[int], max_bytes: int) -> Generator[bytes | Reject]:
        """Images of rows of one row group, `positions` ascending; stops reading behind the last.

        Raises Reject for what keeps all of them from being read.
        """
        metadata, starts = self._footer(container)
        group = bisect_right(starts, positions[0]) - 1
        if group >= metadata.num_row_groups:
            raise Reject("unreadable", f"the file has only {starts[-1]} rows now")
        with self.open(container) as file, columns.parquet_of(file, metadata) as parquet:
            columns.check_column(self.name_of(container), parquet.schema_arrow, self.column, columns.is_image)
            chunk = _chunk(metadata, group, self.column)
            _check_size(chunk, max_bytes)
            names = [self.column, *(name for name in _EXCUSES if name in parquet.schema_arrow.names)]
            first, done = starts[group], 0
            size = _batch_rows(metadata, group, chunk)
            for batch in columns.streamed(parquet, names, rows=size, row_groups=[group]):
                while done < len(positions) and positions[done] < first + len(batch):
                    yield self._image(batch, positions[done] - first, max_bytes)
                    done += 1
                if done == len(positions):
                    return
                first += len(batch)

    def _image(self, batch: pa.RecordBatch, row: int, max_bytes: int) -> bytes | Reject:
        column = batch.column(self.column)
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


def _check_size(chunk: pq.ColumnChunkMetaData, max_bytes: int) -> None:
    """Raise Reject for images too large on average, or a row group that unpacks to far more than it is."""
    unpacked, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
    if unpacked > max_bytes * max(1, chunk.num_values):
        raise too_large(unpacked // max(1, chunk.num_values), max_bytes)
    if unpacked > max(_UNPACKED, _TIMES * stored):
        raise Reject(
            "too_many_bytes",
            f"the row group unpacks from {stored} bytes to {unpacked}; the limit is {_UNPACKED}, or {_TIMES} times; "
            "write fewer rows into a row group",
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
    """Why a row has no bytes, as far as the row says."""
    said = [_text(batch.column(name), row) for name in _EXCUSES if name in batch.schema.names]
    if said:
        return f"the row has no bytes: {': '.join(map(str, said))}"[:300]
    path = _text(columns.field_of(column, "path"), row) if columns.has_field(column.type, "path") else None
    return "the row has no bytes" + ("" if path is None else f", only the path {path!r} of another machine")


def _text(array: pa.Array, row: int) -> str | None:
    value = array.slice(row, 1)
    return (columns.as_text(value) if columns.is_text(value.type) else value)[0].as_py()


def parquet_format(spec: SourceSpec, first_parquet: str) -> str:
    """What Parquet files hold, by the column types of one of them: images, else features, else URIs.

    Args:
        spec: the source; with a `column` that column decides.
        first_parquet: the file's path below the source, "" for a source that is one file.

    Raises SourceError, listing the columns, if they hold none of these.
    """
    source = ParquetSource(replace(spec, column=""))  # of which no column is looked for
    with source.opened(first_parquet) as parquet:
        schema = parquet.schema_arrow
    name = source.name_of(first_parquet)
    for column in asked_columns(spec)[:1]:  # of several, which are feature spaces, the others are checked as such
        columns.check_column(name, schema, column, lambda _: True)
        schema = pa.schema([schema.field(column)])
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
