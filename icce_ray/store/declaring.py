"""What is said of an artifact where it is declared: the kinds of files, their columns, the stages that write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import pyarrow as pa

from icce_ray.io.storage import FileInfo, Storage
from icce_ray.store.shards import in_order, shard_number, shard_path

Rows = Literal["listed", "accepted", "rejected", "learned"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        folder: where its marker stands.
        settings: what its result depends on beside the stages before it, whose fingerprints go into its own.
        figures: those of its marker that `icce verify` needs.
    """

    folder: str
    settings: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One column of a table; without `optional` it is in every file, without `nulls` it has a value in every row.

    Attributes:
        type: of the values; of their elements, where `width` is given.
        width: of vectors, all of one length: the dimension that gives it (`contents.dimensions`). An optional column
            must be there where its width is not 0.
        within: limits of the values, both included; a name stands for a dimension, which is one too many.
        counted: the figure of the marker that holds how often each value occurs.
        finite: no NaN, no infinity.
        directed: no vector is zero.
    """

    type: pa.DataType
    width: str | None = None
    within: tuple[float, float | str] | None = None
    counted: str | None = None
    finite: bool = False
    directed: bool = False
    optional: bool = False
    nulls: bool = False


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a stage writes to one path; of one of several feature spaces, where `space` names it."""

    stage: str
    path: str
    space: str = ""

    def holds(self, path: str) -> bool:
        """Whether a file is one of this artifact."""
        return path == self.path

    def of(self, space: str) -> Self:
        """That of one of several feature spaces, in a folder of its own; of "", the only one, the artifact itself."""
        first, slash, rest = self.path.partition("/")
        return replace(self, path=f"{first}/{space}{slash}{rest}", space=space) if space else self


@dataclass(frozen=True, kw_only=True)
class Table(Artifact):
    """Parquet: a folder of numbered shards, or one file where `path` ends in `.parquet`.

    Attributes:
        rows: whose rows these are: of all listed images, of those that `embed` accepted or rejected, or of those that
            heads learn from (the sample, or all accepted ones). In this order over all shards.
        length: dimensions whose product is the number of rows.
        copies: the table whose rows of the same images these repeat, column by column.
    """

    columns: Mapping[str, Column]
    rows: Rows | None = None
    length: tuple[str, ...] = ()
    copies: Table | None = None

    def schema(self, **dimensions: int) -> pa.Schema:
        """All columns with their types; of vectors these need the dimensions that give their widths."""
        return pa.schema(
            [
                (name, column.type if column.width is None else pa.list_(column.type, dimensions[column.width]))
                for name, column in self.columns.items()
            ]
        )

    def part(self, number: int) -> str:
        """Path of one shard."""
        return shard_path(self.path, number)

    def holds(self, path: str) -> bool:
        """Whether a file is one of this table's: its only one, or a shard under the name that its number gives."""
        number = shard_number(path)
        return path == self.path if self.path.endswith(".parquet") else number is not None and path == self.part(number)

    def files(self, infos: Iterable[FileInfo]) -> list[FileInfo]:
        """Those of some files that are this table's, in the order of its rows."""
        return in_order(info for info in infos if self.holds(info.path))

    def write(self, storage: Storage, table: pa.Table, number: int | None = None) -> FileInfo:
        """Write a shard, or the only file. TypeError for other columns than are declared: an error of this program."""
        path = self.path if number is None else self.part(number)
        names = [name for name, column in self.columns.items() if not column.optional or name in table.column_names]
        wrong = [name for name in names if name not in table.column_names or not self.fits(name, table.schema)]
        if wrong or names != table.column_names:
            declared = {name: str(self.columns[name].type) for name in names}
            raise TypeError(f"{path} is declared with {declared}, to be written are {table.schema}")
        return storage.write_table(path, table)

    def fits(self, name: str, schema: pa.Schema) -> bool:
        """Whether the column of a schema has the declared type, vectors of any length."""
        declared, kind = self.columns[name], schema.field(name).type
        if declared.width is None:
            return kind.equals(declared.type)
        return pa.types.is_fixed_size_list(kind) and kind.value_type.equals(declared.type)


@dataclass(frozen=True, kw_only=True)
class Tensors(Artifact):
    """A safetensors file; every tensor is finite and has the shape that these dimensions give.

    It is there unless the dimension `absent` is 0.
    """

    shapes: Mapping[str, tuple[str, ...]]
    absent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Document(Artifact):
    """A JSON object of some type; with `summary` it holds the figures of the marker."""

    type: Any = dict[str, Any]
    summary: bool = False
    optional: bool = False
