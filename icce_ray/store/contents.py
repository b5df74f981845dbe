"""The content of artifacts against their declarations: types, values, names, and whose rows they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.io.storage import StorageError
from icce_ray.settings import Settings
from icce_ray.store.artifacts import (
    CLASSIFIER_DESCRIPTION,
    MANIFEST,
    NAMES,
    Artifact,
    Document,
    Table,
    Tensors,
)
from icce_ray.store.markers import Marker, RunError
from icce_ray.store.run import Store
from icce_ray.store.views import spaces_of, widths_of

_ROUNDING = 1e-5  # a float32 probability may come out a little above one
#: Shards of a table of copies that are compared with what they were copied from, every row of them.
_COMPARED = 32


class UnusableError(Exception):
    """A file whose content cannot be what it is declared as; the message says why."""


class Contents:
    """The artifacts of complete stages; `settings` are None for a prediction."""

    def __init__(self, store: Store, markers: dict[str, Marker], settings: Settings | None) -> None:
        self.store, self.markers = store, markers
        self.settings = settings and store.resolved(settings)
        self.dimensions = dimensions(markers, self.settings)
        embedded = markers["embed"].summary if "embed" in markers else {}
        self.spaces = spaces_of(embedded)
        self.of_spaces = self._of_spaces(embedded)
        """Dimensions that one of several feature spaces has for itself, by its name."""
        self.ids: dict[str, np.ndarray] = {"listed": np.arange(markers["list"].summary["images"])}
        """image_ids by what a table's rows may be declared as."""
        self._names = Rows(self, MANIFEST, NAMES)

    def _of_spaces(self, embedded: dict[str, Any]) -> dict[str, dict[str, int]]:
        if self.spaces == ("",) or self.settings is None:
            return {}
        figures = {stage: marker.summary for stage, marker in self.markers.items()}
        by_space = figures.get("neighbors", {}).get("by_space", {})
        heads, found = figures.get("heads", {}).get("head_spaces", {}), {}
        for space in self.spaces:
            start, stop = heads.get(space, (0, 0))
            found[space] = {"heads": stop - start, "components": by_space.get(space, {}).get("components", 0)}
            found[space]["dim"] = sum(widths_of(embedded, space, {}))
            found[space]["seen"] = sum(widths_of(embedded, space, by_space))
        return found

    def artifact(self, artifact: Artifact) -> Iterator[str]:
        """Violations of one declaration."""
        try:
            if isinstance(artifact, Tensors):
                yield from self._tensors(artifact)
            elif isinstance(artifact, Document):
                yield from self._document(artifact)
            elif isinstance(artifact, Table):
                yield from self.table(artifact)[0]
        except UnusableError as error:
            yield f"{artifact.stage}: {artifact.path} {error}"

    # -- tables ----------------------------------------------------------------------------------------------------

    def table(
        self, table: Table, check: Callable[[str, pa.Table], Iterator[str]] | None = None
    ) -> tuple[list[str], np.ndarray | None]:
        """Violations, and the image_ids of all shards unless one cannot be used; `check` looks at each shard too."""
        lines: list[str] = []
        ids, rows, usable = [np.empty(0, np.int64)], 0, True
        counts: dict[str, Counter[Any]] = {name: Counter() for name, column in table.columns.items() if column.counted}
        files = table.files(self.markers[table.stage].files)
        compared = files[:: max(1, -(-len(files) // _COMPARED))] if table.copies else []
        for info in files:
            try:
                shard = self.read(table, info.path)
            except UnusableError as error:
                lines.append(f"{table.stage}: {info.path} {error}")
                usable = False
                continue
            wrong = [text for name in shard.column_names for text in self._values(table, name, shard[name])]
            wrong += check(info.path, shard) if check and not wrong else ()
            usable &= not wrong
            if table is not MANIFEST:
                wrong += self._differences(shard, self._names)
            if table.copies and info in compared:
                origin = Rows(self, table.copies, [name for name in shard.column_names if name not in NAMES])
                wrong += self._differences(shard, origin)
            lines += [f"{table.stage}: {info.path} {text}" for text in wrong]
            rows += len(shard)
            ids += [shard["image_id"].to_numpy()] if "image_id" in table.columns else []
            for name, counter in counts.items():
                counter.update(shard[name].to_pylist())
        every = np.concatenate(ids) if usable else None
        expected = self.ids.get(table.rows or "")
        if every is not None and expected is not None and not np.array_equal(every, expected):
            extra, missing = len(np.setdiff1d(every, expected)), len(np.setdiff1d(expected, every))
            lines.append(
                f"{table.stage}: {table.path} has image_ids that are not the {table.rows} ones in order: "
                f"{missing} missing, {extra} extra, {rows} rows"
            )
        if table.length and usable and rows != math.prod(self.dimensions[name] for name in table.length):
            expected_rows = " x ".join(f"{self.dimensions[name]} {name}" for name in table.length)
            lines.append(f"{table.stage}: {table.path} has {rows} rows, not {expected_rows}")
        return lines if lines else list(self._counts(table, counts)), every

    def read(self, table: Table, path: str) -> pa.Table:
        """The declared columns of a file. UnusableError for one that is missing, null, or of another type or width."""
        try:
            whole = self.store.storage.read_table(path).combine_chunks()
        except (ValueError, KeyError, TypeError, OverflowError, StorageError, pa.ArrowException) as error:
            raise UnusableError(f"cannot be used: {type(error).__name__}: {error}") from error
        names = []
        for name, column in table.columns.items():
            width = self.dimensions.get(column.width or "", 0)
            if name not in whole.column_names:
                if column.optional and not width:
                    continue
                raise UnusableError(f"has no column {name!r}")
            if not table.fits(name, whole.schema):
                raise UnusableError(f"has a column {name!r} of type {whole[name].type}")
            if column.width and whole[name].type.list_size != width:
                raise UnusableError(f"has {whole[name].type.list_size} {name}, not {width}")
            if whole[name].null_count and not column.nulls:
                raise UnusableError(f"has {whole[name].null_count} rows without {name!r}")
            names.append(name)
        return whole.select(names)

    def _values(self, table: Table, name: str, data: pa.ChunkedArray) -> Iterator[str]:
        column = table.columns[name]
        if not len(data) or not (column.within or column.finite or column.directed):
            return
        values = numbers(data)
        if column.within:
            low, most = column.within
            high = self.dimensions[most] - 1 if isinstance(most, str) else most
            if not ((values >= low) & (values <= high + _ROUNDING)).all():
                yield f"has {name} from {values.min()} to {values.max()}, allowed is {low} to {high}"
        if column.finite and not np.isfinite(values).all():
            yield f"has {name} that are not finite"
        elif column.directed and not values.any(axis=1).all():
            yield f"has {name} that are zero"

    def _differences(self, shard: pa.Table, origin: Rows) -> Iterator[str]:
        """Rows that are not those of the same images in another table; ids not in there are reported elsewhere."""
        table, columns = origin.table, [name for name in origin.columns if name in shard.column_names]
        ids = self.ids[table.rows or ""]
        own = shard["image_id"].to_numpy() if columns else ids[:0]
        place = np.minimum(np.searchsorted(ids, own), len(ids) - 1)
        rows = np.flatnonzero(ids[place] == own) if len(ids) else ids
        if not len(rows):
            return
        here, there, wrong = shard.take(pa.array(rows)), origin.take(place[rows]), np.zeros(len(rows), bool)
        for name in columns:
            wrong |= _unequal(here[name], there[name])
        if wrong.any():
            names, first = ", ".join(columns), own[rows][wrong][0]
            yield f"has {wrong.sum()} images with other {names} than {table.path}, the first {first}"

    def _counts(self, table: Table, counts: dict[str, Counter[Any]]) -> Iterator[str]:
        """What the marker counts is what the files hold."""
        for name, counter in counts.items():
            column = table.columns[name]
            held: Any = dict(counter)
            if column.within:
                held = [counter[value] for value in range(self.dimensions[str(column.within[1])])]
            yield from self.figure(table.stage, str(column.counted), held)

    def figure(self, stage: str, name: str, held: Any) -> Iterator[str]:
        """A figure of a marker is what its files hold."""
        noted = self.markers[stage].summary.get(name)
        if noted != held:
            yield f"{stage}: its marker says {name} = {noted}, its files hold {held}"

    # -- weights and documents -----------------------------------------------------------------------------------------

    def _tensors(self, artifact: Tensors) -> Iterator[str]:
        known = self.dimensions | self.of_spaces.get(artifact.space, {})
        if not all(size in known for shape in artifact.shapes.values() for size in shape):
            return  # those of the classifier follow from its description
        if artifact.absent and not known[artifact.absent]:
            return
        expected = {name: tuple(known[size] for size in shape) for name, shape in artifact.shapes.items()}
        try:
            tensors = self.store.storage.read_tensors(artifact.path)
        except (OSError, ValueError) as error:
            raise UnusableError(f"cannot be used: {type(error).__name__}: {error}") from error
        shapes: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in sorted(shapes | expected):
            here, declared = shapes.get(name), expected.get(name)
            if here != declared:
                yield f"{artifact.stage}: {artifact.path} has {name} of shape {here}, expected is {declared}"
            elif not tensors[name].isfinite().all():
                yield f"{artifact.stage}: {artifact.path} has values in {name} that are not finite"

    def _document(self, artifact: Document) -> Iterator[str]:
        try:
            content = self.store.document(artifact)
        except FileNotFoundError:
            if not artifact.optional:
                raise UnusableError("is missing") from None
            return
        except RunError as error:
            yield f"{artifact.stage}: {error}"
            return
        if artifact.summary and content != self.markers[artifact.stage].summary:
            raise UnusableError("has other figures than the marker")
        if artifact is CLASSIFIER_DESCRIPTION:
            yield from self._classifier(content)

    def _classifier(self, description: dict[str, Any]) -> Iterator[str]:
        """Of as many classes as the settings say, and of columns that the features have; then its inputs are known."""
        spans, classes = description["columns"], self.dimensions["clusters"]
        width = self.dimensions["dim"] + self.dimensions["block_dim"]
        path = CLASSIFIER_DESCRIPTION.path
        if description["classes"] != classes:
            yield f"classifier: {path} is of {description['classes']} classes, the settings say {classes}"
        if not spans or any(not 0 <= start < stop <= width for start, stop in spans):
            yield f"classifier: {path} reads columns {spans} of features of width {width}"
        else:
            self.dimensions["inputs"] = sum(stop - start for start, stop in spans)


class Rows:
    """Columns of a table by the number of their row over all shards, of which one is held at a time."""

    def __init__(self, contents: Contents, table: Table, columns: Sequence[str]) -> None:
        self.table, self.columns = table, list(columns)
        self._read = contents.store.storage.read_table
        self._files = table.files(contents.markers[table.stage].files)
        self._ends = np.cumsum([info.rows or 0 for info in self._files], dtype=np.int64)
        self._number, self._shard = -1, pa.table({})

    def take(self, wanted: np.ndarray) -> pa.Table:
        """Rows of these numbers, of which there is one at least, in this order."""
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        pieces, order = [], []
        for number in np.unique(shard_of).tolist():
            if self._number != number:
                self._shard = self._read(self._files[number].path, self.columns).combine_chunks()
                self._number = number
            order.append(np.flatnonzero(shard_of == number))
            start = int(self._ends[number]) - len(self._shard)
            pieces.append(self._shard.take(pa.array(wanted[order[-1]] - start)))
        return pa.concat_tables(pieces).combine_chunks().take(pa.array(np.argsort(np.concatenate(order))))


def dimensions(markers: dict[str, Marker], settings: Settings | None) -> dict[str, int]:
    """What names in declarations stand for; `inputs` follows from the classifier's description."""
    if settings is None:
        return {"clusters": len(markers["predict"].summary["class_sizes"])} if "predict" in markers else {}
    embedded = markers["embed"].summary if "embed" in markers else {}
    of_heads = {name: getattr(settings.heads, name) for name in ("heads", "hidden", "bottleneck", "epochs")}
    widths = {name: embedded.get(name, 0) for name in ("dim", "block_dim")}
    components = settings.neighbors.components
    widths |= {"components": components, "seen": components or widths["dim"]}
    return {"clusters": settings.clusters} | of_heads | widths


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Values of a column, [rows] or [rows, width], nulls within vectors as NaN or -1."""
    whole = column.combine_chunks()
    if not pa.types.is_fixed_size_list(whole.type):
        return whole.to_numpy(zero_copy_only=False)
    return filled(whole.flatten()).reshape(len(whole), whole.type.list_size)


def filled(values: pa.Array) -> np.ndarray:
    """Values with NaN or -1 for nulls."""
    filler = -1 if pa.types.is_integer(values.type) else float("nan")
    return values.fill_null(pa.scalar(filler, values.type)).to_numpy(zero_copy_only=False)


def _unequal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Rows in which two columns of one type differ."""
    if pa.types.is_fixed_size_list(one.type):
        return (numbers(one) != numbers(other)).any(axis=1)
    return pc.call_function("not_equal", [one, other]).to_numpy()
