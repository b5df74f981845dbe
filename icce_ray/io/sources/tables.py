"""Tables as sources, of which one column is meant: what that is, what names a row, and whole rows for an export."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from icce_ray.io.locations import SourceError
from icce_ray.io.sources import columns
from icce_ray.io.sources.base import SourceSpec
from icce_ray.io.sources.folder import ContainerSource
from icce_ray.io.stores import HeaderError

#: Bytes of whole rows held at a time, where rows are of usual size, and rows at most.
_ROWS_BYTES, _ROWS = 8 << 20, 1024


class TableSource(ContainerSource):
    """The rows of tables, of which one column is meant; `usual` are names that it often has.

    `uri` is the table's path and the row's number, `key` as `keys` says, else the row's number.
    """

    usual: Sequence[str] = ()
    #: Whether a container is a version that never changes, rather than a file.
    versioned = False

    def __init__(self, spec: SourceSpec) -> None:
        """Looks for the column where `spec` names none. Raises SourceError if none or several could be meant."""
        super().__init__(spec)
        if spec.column is None:
            self.find_column()

    @staticmethod
    @abstractmethod
    def fits(kind: pa.DataType) -> bool:
        """Whether a column of this type can be the one."""

    @abstractmethod
    def schema_of(self, container: str) -> pa.Schema:
        """Columns of one table. Raises SourceError, naming it, if it cannot be read."""

    @abstractmethod
    def whole_rows(self, container: str) -> Generator[pa.RecordBatch]:
        """All columns of all rows of one table, in order, some MiB at a time. Raises SourceError for damaged ones."""

    def find_column(self) -> None:
        """Take the only column of the first table that can be meant."""
        name, schema = self.first_schema
        fitting = columns.candidates(schema, self.fits, self.usual)
        if len(fitting) != 1:
            problem = f"several columns could be meant ({', '.join(fitting)})" if fitting else "no column fits"
            raise SourceError(
                f"{name} in {self.spec.location!r}: {problem}; give --set list.column=NAME; it has "
                f"{columns.columns_of(schema)}"
            )
        self.spec = replace(self.spec, column=fitting[0])

    @cached_property
    def first_schema(self) -> tuple[str, pa.Schema]:
        """Name and columns of the first table."""
        container = self.first()
        return self.name_of(container), self.schema_of(container)

    @property
    def column(self) -> str:
        """The column that is meant."""
        return self.spec.column or ""

    @cached_property
    def keys(self) -> list[str]:
        """Columns that name the rows, the first that is not null counting, as the first table has them.

        `spec.key_column` alone, else the `path` of a struct (as `column.path`) and one of `KEY_NAMES`.
        """
        name, schema = self.first_schema
        columns.check_column(name, schema, self.column, self.fits)
        key = columns.the_key_column(self.spec, name, schema, besides=self.column)
        has_path = self.spec.key_column is None and columns.has_field(schema.field(self.column).type, "path")
        return [f"{self.column}.path"] * has_path + ([] if key is None else [key])

    def check_keys(self, name: str, schema: pa.Schema) -> None:
        """Raise SourceError for a table, other than the first perhaps, without one of `keys`."""
        for key in self.keys:
            columns.check_column(name, schema, columns.parent_of(schema, key), lambda _: True)

    def listing(self) -> Iterator[pa.Table]:
        """One row a row; of several tables at a time."""
        _ = self.keys  # before several threads ask
        return super().listing()


class RowAccess(TableSource):
    """Tables of images that are read at any row."""

    fits = staticmethod(columns.is_image)
    #: Rows that are read together, at most.
    span: int

    def begins(self, rows: pa.Table) -> Iterable[bool]:
        """Rows of one table that lie near each other, in ascending order, are read together."""
        before, last = None, -1
        for container, position in zip(rows["container"].to_pylist(), rows["position"].to_pylist(), strict=True):
            place = (container, position // self.span)
            yield place != before or position <= last
            before, last = place, position


class ParquetRows(TableSource):
    """The rows of Parquet files; the listing reads the keys only."""

    endings = (".parquet",)
    lacks = "the Parquet files have no rows"

    def tables(self, container: str) -> Generator[pa.Table]:
        """Rows of one file, named by its columns `keys`."""
        name = self.name_of(container)
        with self.opened(container) as parquet:
            self.check(name, parquet)
            self.check_keys(name, parquet.schema_arrow)
            if self.keys:
                for first, batch in columns.batches(parquet, name, self.keys):
                    keys = [columns.text_column(batch, key, name, first) for key in self.keys]
                    yield columns.numbered(name, container, first, len(batch), keys)
            else:
                yield from columns.numbered_rows(name, container, parquet.metadata.num_rows)

    def check(self, name: str, parquet: pq.ParquetFile) -> None:
        """Raise SourceError for a file, other than the first perhaps, without the column."""
        columns.check_column(name, parquet.schema_arrow, self.column, self.fits)

    def schema_of(self, container: str) -> pa.Schema:
        """See `TableSource`."""
        with self.opened(container) as parquet:
            return parquet.schema_arrow

    def whole_rows(self, container: str) -> Generator[pa.RecordBatch]:
        """See `TableSource`; a row group at a time is streamed."""
        name = self.name_of(container)
        with self.opened(container) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                described = parquet.metadata.row_group(group)
                size = described.num_rows * _ROWS_BYTES // max(1, described.total_byte_size)
                rows, names = max(1, min(_ROWS, size)), parquet.schema_arrow.names
                for _, batch in columns.batches(parquet, name, names, rows=rows, row_groups=[group]):
                    yield batch

    def opened(self, container: str) -> pq.ParquetFile:
        """A file, for its columns of small values. Raises SourceError, naming it, if it cannot be read."""
        file = self.required(container, ahead=1 << 16)
        try:
            return columns.parquet_of(file, buffer=columns.SMALL)
        except HeaderError as error:
            file.close()
            raise SourceError(
                f"{self.name_of(container)} in {self.spec.location!r} is no whole Parquet file ({file.size} bytes): "
                f"{error}; write it again or take it out"
            ) from error
