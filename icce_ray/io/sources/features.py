"""Features computed elsewhere: .npy files, or a column of lists in Parquet files, one row an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icce_ray.documents import shown
from icce_ray.io.decode import Reject
from icce_ray.io.headers import Bounded, HeaderError, parsing
from icce_ray.io.sources import columns
from icce_ray.io.sources.base import TABLE_ROWS, FeatureSource, SourceError, SourceSpec
from icce_ray.io.sources.containers import ContainerSource, Found, StoreFile, one_ahead

#: Bytes of an .npy file read at a time.
_SPAN = 32 << 20
#: Numbers a row, at most: a file of a few bytes can announce any number.
_MOST_DIM = 1 << 20


class Npy(NamedTuple):
    """What the header of an .npy file of features says."""

    rows: int
    dim: int
    dtype: np.dtype
    offset: int


class FeatureFiles(ContainerSource, FeatureSource):
    """Rows of .npy files [N, D], or of a Parquet column of lists of D floats; the same D in all files.

    A folder that holds both is read as .npy (as clip-retrieval leaves its metadata beside them). `uri` is the file and
    the row, `key` the row's name as in `ParquetSource`, of .npy files the row's number in its file.

    Attributes:
        dim: D, of the first file.
    """

    def __init__(self, spec: SourceSpec) -> None:
        """Reads the start of the first file unless `spec` has `dim`. Raises SourceError if it holds no features."""
        super().__init__(spec)
        self.endings = (".npy",) if spec.column is None else (".parquet",)
        if spec.dim is not None:
            self.dim = spec.dim
            return
        container = self._first()
        if container is None and spec.column is None:
            self.endings = (".parquet",)
            container = self._first()
        if container is None:
            raise self.nothing("no such file")
        name = self.name_of(container)
        if name.lower().endswith(".npy"):
            self.endings = (".npy",)
            file, npy = self._npy(container)
            file.close()
            self.dim = npy.dim
            self.spec = replace(spec, dim=npy.dim)
            return
        self.endings = (".parquet",)
        with columns.opened(self, container) as parquet:
            schema = parquet.schema_arrow
            column = columns.the_column(spec, name, schema, columns.is_features, columns.FEATURE_NAMES)
            dim = _width(parquet, name, column)
        if dim is None:
            raise SourceError(f"{name}: column {column!r} holds no features in any row; the first file must have some")
        if not 1 <= dim <= _MOST_DIM:
            raise SourceError(
                f"{name}: column {column!r} holds lists of {dim} numbers; a feature has 1 to {_MOST_DIM:,}; give "
                "another column with --set list.column=NAME"
            )
        self.dim = dim
        self.spec = replace(spec, column=column, dim=dim)

    def _first(self) -> str | None:
        found: Found | None = next(self.found(Counter()), None)
        return None if found is None else found[0]

    def listing(self) -> Iterator[pa.Table]:
        """One row a row. Raises SourceError for a file of another width, type or order."""
        count = 0
        keys = [] if self.spec.column is None else self._keys()
        for table in one_ahead(self._tables(container, keys) for container, _ in self.containers()):
            count += len(table)
            yield table
        if not count:
            raise self.nothing("the files have no rows")

    def _keys(self) -> list[str]:
        container = self._first() or ""
        with columns.opened(self, container) as parquet:
            key = columns.the_key_column(self.spec, self.name_of(container), parquet.schema_arrow)
        return [] if key is None else [key]

    def _tables(self, container: str, keys: list[str]) -> Generator[pa.Table]:
        name = self.name_of(container)
        if self.spec.column is None:
            file, npy = self._npy(container)
            file.close()
            self._check_dim(name, npy.dim)
            for first in range(0, npy.rows, TABLE_ROWS):
                yield columns.numbered(name, container, first, min(TABLE_ROWS, npy.rows - first))
            return
        with columns.opened(self, container) as parquet:
            columns.check_column(name, parquet.schema_arrow, self.spec.column, columns.is_features)
            self._check_dim(name, _width(parquet, name, self.spec.column))
            yield from columns.listed(self, container, parquet, keys)

    def _check_dim(self, name: str, dim: int | None) -> None:
        if dim not in (None, self.dim):
            raise SourceError(
                f"{name} in {self.spec.location!r} has {dim} numbers a row, the first file {self.dim}; features of one "
                "source must come from one model"
            )

    def spans(self, rows: pa.Table) -> list[tuple[int, int]]:
        """Rows of one file together."""
        containers = rows["container"].to_pylist()
        starts = [row for row, container in enumerate(containers) if row == 0 or container != containers[row - 1]]
        return list(zip(starts, [*starts[1:], len(rows)], strict=False))

    def features(self, rows: pa.Table) -> np.ndarray:
        """Features of these rows, float32 [rows, dim]; NaN where a Parquet row or a number in it is null.

        Raises SourceError for rows that are not there, or of another width.
        """
        result = np.empty((len(rows), self.dim), np.float32)
        for begin, end in self.spans(rows):
            container = rows["container"][begin].as_py()
            positions = rows["position"].slice(begin, end - begin).to_numpy()
            read = self._read_npy if self.spec.column is None else self._read_parquet
            read(container, positions, result[begin:end])
        return result

    def _read_npy(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        file, npy = self._npy(container)
        name = self.name_of(container)
        with file:
            self._check_dim(name, npy.dim)
            self._check_rows(name, positions, npy.rows)
            width = npy.dim * npy.dtype.itemsize
            for begin, end in _runs(positions, max(1, _SPAN // width)):
                data = file.read_at(npy.offset + int(positions[begin]) * width, (end - begin) * width)
                if len(data) != (end - begin) * width:
                    raise SourceError(f"{name} ends early: {len(data)} of {(end - begin) * width} bytes are there")
                with np.errstate(
                    over="ignore"
                ):  # beyond float32 is infinite, which is for the reader of features to see
                    result[begin:end] = np.frombuffer(data, npy.dtype).reshape(end - begin, npy.dim)

    def _read_parquet(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        name, column = self.name_of(container), self.spec.column or ""
        with columns.opened(self, container) as parquet:
            columns.check_column(name, parquet.schema_arrow, column, columns.is_features)
            self._check_rows(name, positions, parquet.metadata.num_rows)
            ends = np.cumsum([parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)])
            groups = np.unique(np.searchsorted(ends, positions, side="right"))
            for group in groups.tolist():
                begin = int(ends[group - 1]) if group else 0
                with closing(columns.batches(parquet, name, [column], row_groups=[group])) as batches:
                    for first, batch in batches:
                        low = begin + first
                        wanted = np.flatnonzero((positions >= low) & (positions < low + len(batch)))
                        if len(wanted):
                            taken = batch.column(column).take(pa.array(positions[wanted] - low))
                            result[wanted] = _matrix(taken, self.dim, f"{name}, rows from {low} on")

    def _check_rows(self, name: str, positions: np.ndarray, rows: int) -> None:
        if len(positions) and (positions.min() < 0 or positions.max() >= rows):
            raise SourceError(f"{name} has {rows} rows; row {positions.max()} was listed: the file has changed since")

    def _npy(self, container: str) -> tuple[StoreFile, Npy]:
        """The open file and what its header says. Raises SourceError for arrays that are no features."""
        name = f"{self.name_of(container)} in {self.spec.location!r}"
        file = self.open(container, least=1 << 12, most=1 << 12)
        if isinstance(file, Reject):
            raise SourceError(f"{name} cannot be read: {file}")
        try:
            return file, _header(file, name)
        except SourceError:
            file.close()
            raise


def _width(parquet: pq.ParquetFile, name: str, column: str) -> int | None:
    """Numbers in the first row that is not null, None without one."""
    kind = parquet.schema_arrow.field(column).type
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    with closing(columns.batches(parquet, name, [column], rows=64)) as batches:
        for _, batch in batches:
            lengths = batch.column(column).value_lengths().drop_null()
            if len(lengths):
                return lengths[0].as_py()
    return None


def _header(file: StoreFile, name: str) -> Npy:
    # Only the header is parsed, as a literal: arrays of objects, which would need pickle, end here.
    from numpy.lib import format as npy_format

    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        with parsing():
            head: Any = Bounded(file)
            version = npy_format.read_magic(head)
            if version not in readers:
                raise ValueError(f"version {version} is for arrays of records")
            shape, fortran, dtype = readers[version](head)
    except HeaderError as error:
        raise SourceError(f"{name} is no .npy file of features: {error}; save float16 or float32 [N, D]") from error
    fits = len(shape) == 2 and shape[0] >= 0 and 1 <= shape[1] <= _MOST_DIM
    if not fits or dtype.kind != "f" or dtype.itemsize > 8:
        raise SourceError(
            f"{name} holds {shown(f'{dtype} {list(shape)}', plain=True)}; features are float16, float32 or float64 "
            f"[N, D] with D of 1 to {_MOST_DIM:,}"
        )
    if fortran and min(shape) > 1:
        raise SourceError(f"{name} is in Fortran order, where no row lies together; save np.ascontiguousarray(...)")
    offset, needed = file.tell(), math.prod(shape) * dtype.itemsize
    if file.size - offset < needed:
        raise SourceError(
            f"{name} is cut: {file.size - offset} bytes of data, {list(shape)} {dtype} needs {needed}; write it again"
        )
    return Npy(shape[0], shape[1], dtype, offset)


def _runs(positions: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
    """Ranges of `positions` that follow each other by one, at most `longest` each."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(positions)], strict=True):
        for start in range(begin, end, longest):
            yield start, min(start + longest, end)


def _matrix(lists: pa.Array, dim: int, where: str) -> np.ndarray:
    """A list array [n] as float32 [n, dim], null rows NaN. Raises SourceError for a row of another length."""
    lengths = lists.value_lengths().drop_null().to_numpy()
    if (lengths != dim).any():
        wrong = int(lengths[lengths != dim][0])
        raise SourceError(f"{where}: a row of {wrong} numbers; all rows of a source have the same, here {dim}")
    result = np.full((len(lists), dim), np.nan, np.float32)
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        result[valid] = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return result
