"""Columns of a run in the order of image_id, whoever wrote which file when: above all the features, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from icce_ray.io.storage import FileInfo
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, PROJECTION, SAMPLE, Table
from icce_ray.store.views import View, seen, views_of

if TYPE_CHECKING:
    from icce_ray.core.projection import Projection


@dataclass(frozen=True)
class FeatureRows:
    """The accepted images of a run, numbered 0 ... N - 1 in the order of image_id; picklable, holds no data."""

    root: str
    files: tuple[FileInfo, ...]
    space: str = ""
    """Whose neighbours and heads are made, where there are several feature spaces."""
    views: tuple[View, ...] = ()
    """What `features` and `taken` give of what is stored, as neighbours and heads see it; without any, all of it."""

    @classmethod
    def of(cls, store: Store) -> FeatureRows:
        """Rows of a run whose features are complete."""
        return cls(store.root, tuple(FEATURES.files(store.require("embed").files)))

    @classmethod
    def training(cls, store: Store) -> FeatureRows:
        """Rows that neighbours, heads, consensus and classifier are made from: the sample, or all (stage `sample`)."""
        return cls(store.root, tuple(SAMPLE.files(store.require("sample").files))) if store.sampled() else cls.of(store)

    @classmethod
    def inputs(cls, store: Store, components: int) -> FeatureRows:
        """Those rows as neighbours and heads see them, of the setting `neighbors.components`."""
        return cls.of_space(store, "", {"": {"components": components}})

    @classmethod
    def of_space(cls, store: Store, space: str, figures: Mapping[str, Mapping[str, Any]]) -> FeatureRows:
        """The same in one of several feature spaces, with the `components` and `weight` of each."""
        views = views_of(store.require("embed").summary, space, figures)
        return replace(cls.training(store), space=space, views=views)

    def __len__(self) -> int:
        return sum(info.rows or 0 for info in self.files)

    def width(self) -> int:
        """Numbers a row that `features` gives."""
        return sum(view.width for view in self.views) or Store(self.root).require("embed").summary["dim"]

    def blocks(self) -> list[tuple[int, int]]:
        """(first row, one past the last) of each file."""
        ends = np.cumsum([info.rows or 0 for info in self.files])
        return [(int(end - (info.rows or 0)), int(end)) for info, end in zip(self.files, ends, strict=True)]

    def pieces(self, start: int, stop: int, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """(place from `start` on, rows) of each file that holds some of rows start ... stop - 1."""
        storage = Store(self.root).storage
        for info, (first, last) in zip(self.files, self.blocks(), strict=True):
            low, high = max(start, first), min(stop, last)
            if low < high:
                yield low - start, storage.read_table(info.path, columns).slice(low - first, high - low)

    def table(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """Rows start ... stop - 1, some columns."""
        pieces = [piece for _, piece in self.pieces(start, stop, columns)]
        if not pieces:  # no rows asked for: a file whose images were all rejected has none
            return Store(self.root).storage.read_table(self.files[0].path, columns).slice(0, 0)
        return pa.concat_tables(pieces).combine_chunks()

    def image_ids(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """image_id of rows, int64."""
        return self.table(start, len(self) if stop is None else stop, ["image_id"])["image_id"].to_numpy()

    def features(self, start: int = 0, stop: int | None = None, column: str = "features") -> np.ndarray:
        """Features of rows, float16[rows, D]; beside them, one file is in memory at a time."""
        stop, values = len(self) if stop is None else min(stop, len(self)), None
        view = seen(Store(self.root).storage, self.views if column == "features" else ())
        for place, table in self.pieces(start, stop, [column]):
            piece = view(matrix(table[column]))
            if values is None:
                values = np.empty((stop - start, piece.shape[1]), piece.dtype)
            values[place : place + len(piece)] = piece
        return view(matrix(self.table(start, start, [column])[column])) if values is None else values

    def taken(self, wanted: np.ndarray) -> np.ndarray:
        """Features of some rows, ascending int64[n], n > 0: float16[n, D], of memory that may be written to."""
        view = seen(Store(self.root).storage, self.views)
        return view(matrix(self.take(wanted, ["features"])["features"])).copy()

    def take(self, wanted: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Some rows, ascending int64[n], n > 0, and some columns or all of a sample; one file is read at a time.

        What only some files have, as a later version wrote them, is in no sample.
        """
        storage, blocks = Store(self.root).storage, self.blocks()
        edges, pieces = np.searchsorted(wanted, [start for start, _ in blocks] + [len(self)]), []
        for info, (start, _), low, high in zip(self.files, blocks, edges[:-1], edges[1:], strict=True):
            if low < high:
                table = storage.read_table(info.path, columns)
                names = columns or [name for name in SAMPLE.columns if name in table.column_names]
                pieces.append(table.select(names).take(wanted[low:high] - start))
        return pa.concat_tables(pieces).combine_chunks()


def write_projection(store: Store, projection: Projection, space: str = "") -> None:
    """Keep what `FeatureRows.of_space` of the run apply."""
    store.storage.write_tensors(PROJECTION.of(space).path, vars(projection))


def read_column(store: Store, table: Table, name: str) -> np.ndarray:
    """A column of all shards of a complete stage: [N], of vectors [N, D]."""
    files = table.files(store.require(table.stage).files)
    pieces = [store.storage.read_table(info.path, [name])[name] for info in files]
    vectors = table.columns[name].width is not None
    return np.concatenate([matrix(piece) if vectors else piece.to_numpy() for piece in pieces])


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-size list column as [rows, D], without a copy where Arrow allows it."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), width)


def list_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """[rows, D] as a fixed-size list column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def wide(main: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """All stored features of some images side by side, float16[n, D + D_blocks]: what input columns refer to."""
    return main if blocks is None or not blocks.shape[1] else np.concatenate([main, blocks], axis=1)


def classifier_inputs(
    layout: Mapping[str, Sequence[int]], dim: int, block_dim: int, spaces: Mapping[str, Sequence[int]] | None = None
) -> dict[str, list[tuple[int, int]]]:
    """Inputs of the classifier's grid by name, as column ranges of `wide` (paper 3.3).

    Of several feature spaces each of them, and all together. With one block: the first part of the feature alone and
    all of it (CLS, CLS + patch mean). With the last four blocks: their CLS tokens, alone and with what follows the
    first part.
    """
    if spaces:
        each = {name: [(start, stop)] for name, (start, stop) in spaces.items()}
        return each | {"+".join(spaces): [(0, dim + block_dim)]}
    (first, (start, stop)), *rest = layout.items()
    whole = "+".join(layout)
    inputs = {first: [(start, stop)]}
    if rest:
        inputs[whole] = [(0, dim)]
    if block_dim:
        blocks = (dim, dim + block_dim)
        inputs[f"last4.{first}"] = [blocks]
        if rest:
            inputs[f"last4.{whole}"] = [blocks, (stop, dim)]
    return inputs
