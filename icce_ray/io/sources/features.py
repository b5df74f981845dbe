"""Features computed elsewhere: .npy files, or a column of lists in Parquet files, one row per image."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy_format

from icce_ray.documents import shown
from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError
from icce_ray.io.sources import columns, tables
from icce_ray.io.sources.base import SourceSpec
from icce_ray.io.sources.folder import ContainerSource
from icce_ray.io.stores import Bounded, HeaderError, StoredFile, parsing

#: Usual names of a column of features.
NAMES = ("features", "embedding", "embeddings", "feature", "image_embedding")
#: Bytes of an .npy file read at a time.
_SPAN = 32 << 20
#: Numbers a row, at most: a file of a few bytes can announce any number.
_MOST_DIM = 1 << 20


def feature_files(spec: SourceSpec) -> FeatureSource:
    """The source of features at a location; unless `spec` has `dim`, the start of the first file is read for it.

    A folder that holds both is read as .npy, as clip-retrieval leaves its metadata in Parquet beside them. Raises
    SourceError where there are no features.
    """
    if spec.column is None:
        npy = NpyFeatures(spec)
        if spec.dim is not None:
            return npy
        first = next(npy.found(Counter()), None)
        if first is not None and npy.name_of(first[0]).lower().endswith(".npy"):
            with npy.array(first[0]) as array:
                return NpyFeatures(replace(spec, dim=array.dim))
    source = ParquetFeatures(spec)
    return source if spec.dim is not None else ParquetFeatures(replace(source.spec, dim=source.first_width()))


class FeatureSource(ContainerSource):
    """Features computed elsewhere, one row per image, whose images have no bytes.

    Files of rows with the same width D in all of them; `uri` is the file and the row's number.
    """

    lacks = "the files have no rows"

    @property
    def dim(self) -> int:
        """Numbers in a row."""
        return self.spec.dim or 0

    @property
    def dims(self) -> dict[str, int]:
        """Of each feature space by name, where there are several."""
        return {}

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """Raises TypeError: there are no images, only features."""
        raise TypeError(f"{self.spec.location!r} holds features, not images; use features()")

    def begins(self, rows: pa.Table) -> list[bool]:
        """Rows of one file are read together."""
        containers = rows["container"].to_pylist()
        return [row == 0 or container != containers[row - 1] for row, container in enumerate(containers)]

    def features(self, rows: pa.Table) -> np.ndarray:
        """Features of these rows of the listing, float32 [rows, dim]; NaN where a Parquet row or a number is null.

        Raises SourceError for rows that are not there, or of another width.
        """
        result = np.empty((len(rows), self.dim), np.float32)
        for begin, end in self.spans(rows):
            positions = rows["position"].slice(begin, end - begin).to_numpy()
            with np.errstate(over="ignore"):  # beyond float32 is infinite, which is for the reader of features to see
                self.read_rows(rows["container"][begin].as_py(), positions, result[begin:end])
        return result

    @abstractmethod
    def read_rows(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        """Fill `result`, float32 [n, dim], with rows `positions`, int64 [n], of one file."""

    def check_dim(self, name: str, dim: int | None) -> None:
        """Raise SourceError for a file of another width than the first."""
        if dim not in (None, self.dim):
            raise SourceError(
                f"{name} in {self.spec.location!r} has {dim} numbers a row, the first file {self.dim}; features of one "
                "source must come from one model"
            )


def _check_rows(name: str, positions: np.ndarray, rows: int) -> None:
    if len(positions) and (positions.min() < 0 or positions.max() >= rows):
        raise SourceError(f"{name} has {rows} rows; row {positions.max()} was listed: the file has changed since")


# -- .npy --------------------------------------------------------------------------------------------------------


class NpyFeatures(FeatureSource):
    """Rows of .npy files [N, D]; `key` is the row's number in its file."""

    endings = (".npy",)

    def tables(self, container: str) -> Generator[pa.Table]:
        """One row a row."""
        name = self.name_of(container)
        with self.array(container) as array:
            self.check_dim(name, array.dim)
        yield from columns.numbered_rows(name, container, array.rows)

    def read_rows(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        """Rows that follow each other come with one request."""
        name = self.name_of(container)
        with self.array(container) as array:
            self.check_dim(name, array.dim)
            _check_rows(name, positions, array.rows)
            width = array.dim * array.dtype.itemsize
            for begin, end in _runs(positions, max(1, _SPAN // width)):
                data = array.file.read_at(array.offset + int(positions[begin]) * width, (end - begin) * width)
                if len(data) != (end - begin) * width:
                    raise SourceError(f"{name} ends early: {len(data)} of {(end - begin) * width} bytes are there")
                result[begin:end] = np.frombuffer(data, array.dtype).reshape(end - begin, array.dim)

    @contextmanager
    def array(self, container: str) -> Iterator[Npy]:
        """The open file and what its header says. Raises SourceError for arrays that are no features."""
        with self.required(container, ahead=1 << 12) as file:
            yield _npy(file, f"{self.name_of(container)} in {self.spec.location!r}")


class Npy(NamedTuple):
    """An open .npy file of features."""

    file: StoredFile
    rows: int
    dim: int
    dtype: np.dtype
    offset: int


def _npy(file: StoredFile, name: str) -> Npy:
    # Only the header is parsed, as a literal: arrays of objects, which would need pickle, end here.
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
    return Npy(file, shape[0], shape[1], dtype, offset)


def _runs(positions: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
    """Ranges of `positions` that follow each other by one, at most `longest` each."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(positions)], strict=True):
        for start in range(begin, end, longest):
            yield start, min(start + longest, end)


# -- Parquet -----------------------------------------------------------------------------------------------------


class ParquetFeatures(tables.ParquetRows, FeatureSource):
    """Rows of a Parquet column of lists of D floats."""

    usual = NAMES
    fits = staticmethod(columns.is_features)

    def check(self, name: str, parquet: pq.ParquetFile) -> None:
        """The column, and as many numbers in its first row as in all of them."""
        super().check(name, parquet)
        self.check_dim(name, _width(parquet, name, self.column))

    def first_width(self) -> int:
        """Numbers a row of the first file. Raises SourceError if it has none, or too many."""
        container = self.first()
        name = self.name_of(container)
        with self.opened(container) as parquet:
            super().check(name, parquet)
            dim = _width(parquet, name, self.column)
        if dim is None:
            raise SourceError(
                f"{name}: column {self.column!r} holds no features in any row; the first file must have some"
            )
        if not 1 <= dim <= _MOST_DIM:
            raise SourceError(
                f"{name}: column {self.column!r} holds lists of {dim} numbers; a feature has 1 to {_MOST_DIM:,}; give "
                "another column with --set list.column=NAME"
            )
        return dim

    def read_rows(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        """Row groups that hold any of the rows are read whole, in batches."""
        name = self.name_of(container)
        with self.opened(container) as parquet:
            super().check(name, parquet)
            _check_rows(name, positions, parquet.metadata.num_rows)
            ends = np.cumsum([parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)])
            for group in np.unique(np.searchsorted(ends, positions, side="right")).tolist():
                begin = int(ends[group - 1]) if group else 0
                for first, batch in columns.batches(parquet, name, [self.column], row_groups=[group]):
                    low = begin + first
                    wanted = np.flatnonzero((positions >= low) & (positions < low + len(batch)))
                    if len(wanted):
                        taken = batch.column(self.column).take(pa.array(positions[wanted] - low))
                        result[wanted] = _matrix(taken, self.dim, f"{name}, rows from {low} on")


def _width(parquet: pq.ParquetFile, name: str, column: str) -> int | None:
    """Numbers in the first row that is not null, None without one."""
    kind = parquet.schema_arrow.field(column).type
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    for _, batch in columns.batches(parquet, name, [column], rows=64):
        lengths = batch.column(column).value_lengths().drop_null()
        if len(lengths):
            return lengths[0].as_py()
    return None


def _matrix(lists: pa.Array, dim: int, where: str) -> np.ndarray:
    """A list array [n] as float32 [n, dim], null rows NaN. Raises SourceError for a row of another length."""
    lengths = lists.value_lengths().drop_null().to_numpy()
    if (lengths != dim).any():
        wrong = int(lengths[lengths != dim][0])
        raise SourceError(f"{where}: a row of {wrong} numbers; all rows of a source have the same, here {dim}")
    result = np.full((len(lists), dim), np.nan, np.float32)
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    result[valid] = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return result
