"""The content of artifacts against their declarations: types, values, names, and whose rows they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
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

_ROUNDING = 1e-5  # a float32 probability may come out a little above one


class Unfit(Exception):
    """A file whose content cannot be what it is declared as; the message says why."""


class Contents:
    """The artifacts of complete stages; `settings` are None for a prediction."""

    def __init__(self, store: Store, markers: dict[str, Marker], settings: Settings | None) -> None:
        self.store, self.markers = store, markers
        self.settings = settings and store.resolved(settings)
        self.dimensions = _dimensions(markers, self.settings)
        self.ids: dict[str, np.ndarray] = {}
        """image_ids by what a table's rows may be declared as."""
        self.manifest = Manifest(self)

    def artifact(self, artifact: Artifact) -> Iterator[str]:
        """One artifact by its declaration."""
        try:
            if isinstance(artifact, Tensors):
                yield from self._tensors(artifact)
            elif isinstance(artifact, Document):
                yield from self._document(artifact)
            else:
                yield from self.table(artifact)[0]
        except Unfit as error:
            yield f"{artifact.stage}: {artifact.path} {error}"

    # -- tables ----------------------------------------------------------------------------------------------------

    def table(
        self, table: Table, check: Callable[[str, pa.Table], Iterator[str]] | None = None
    ) -> tuple[list[str], np.ndarray | None]:
        """Violations, and the image_ids of all shards unless one cannot be used; `check` looks at each shard too."""
        lines: list[str] = []
        ids, rows, usable = [np.empty(0, np.int64)], 0, True
        counts: dict[str, Counter[Any]] = {name: Counter() for name, column in table.columns.items() if column.counted}
        for info in table.files(self.markers[table.stage].files):
            try:
                shard = self.read(table, info.path)
            except Unfit as error:
                lines.append(f"{table.stage}: {info.path} {error}")
                usable = False
                continue
            wrong = [text for name in shard.column_names for text in self._values(table, name, shard[name])]
            wrong += check(info.path, shard) if check and not wrong else ()
            usable &= not wrong
            wrong += self.manifest.misnamed(shard)
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
                f"{table.stage}: {table.path} has image_ids that are not those of the {self.of(table)} in order: "
                f"{missing} missing, {extra} extra, {rows} rows"
            )
        if table.length and usable and rows != math.prod(self.dimensions[name] for name in table.length):
            expected_rows = " x ".join(f"{self.dimensions[name]} {name}" for name in table.length)
            lines.append(f"{table.stage}: {table.path} has {rows} rows, not {expected_rows}")
        return lines if lines else list(self._counts(table, counts)), every

    def read(self, table: Table, path: str) -> pa.Table:
        """The declared columns of a file. Raises Unfit for one that is missing, of another type or width, or null."""
        try:
            whole = self.store.storage.read_table(path).combine_chunks()
        except (ValueError, KeyError, TypeError, OverflowError, StorageError, pa.ArrowException) as error:
            raise Unfit(f"cannot be used: {type(error).__name__}: {error}") from error
        names = []
        for name, column in table.columns.items():
            width = self.dimensions.get(column.width or "", 0)
            if name not in whole.column_names:
                if column.optional and not width:
                    continue
                raise Unfit(f"has no column {name!r}")
            if not table.fits(name, whole.schema):
                raise Unfit(f"has a column {name!r} of type {whole[name].type}")
            if column.width and whole[name].type.list_size != width:
                raise Unfit(f"has {whole[name].type.list_size} {name}, not {width}")
            if whole[name].null_count and not column.nulls:
                raise Unfit(f"has {whole[name].null_count} rows without {name!r}")
            names.append(name)
        return whole.select(names)

    def _values(self, table: Table, name: str, data: pa.ChunkedArray) -> Iterator[str]:
        column = table.columns[name]
        if not len(data) or not (column.within or column.finite or column.directed):
            return
        values = numbers(data)
        if column.within:
            low, most = column.within
            high = self.dimensions[most] if isinstance(most, str) else most
            if isinstance(most, str) and not ((values >= low) & (values < high)).all():
                yield f"has {name} in [{values.min()}, {values.max()}], outside [{low}, {high})"
            if not isinstance(most, str) and not ((values >= low) & (values <= high + _ROUNDING)).all():
                yield f"has values of {name} outside [{low}, {high}]"
        if column.finite and not np.isfinite(values).all():
            yield f"has {name} that are not finite"
        elif column.directed and not values.any(axis=1).all():
            yield f"has {name} that are zero"

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

    def of(self, table: Table) -> str:
        """Where the images come from whose rows a table has."""
        return "sample" if table.rows == "learned" and self.markers["sample"].files else "features"

    # -- weights and documents -----------------------------------------------------------------------------------------

    def _tensors(self, artifact: Tensors) -> Iterator[str]:
        if not all(size in self.dimensions for shape in artifact.shapes.values() for size in shape):
            return  # those of the classifier follow from its description
        expected = {name: tuple(self.dimensions[size] for size in shape) for name, shape in artifact.shapes.items()}
        try:
            tensors = self.store.storage.read_tensors(artifact.path)
        except (OSError, ValueError) as error:
            raise Unfit(f"cannot be used: {type(error).__name__}: {error}") from error
        shapes: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in sorted(shapes | expected):
            if shapes.get(name) != expected.get(name):
                yield (
                    f"{artifact.stage}: {artifact.path} has {name} of shape {shapes.get(name)}, expected is "
                    f"{expected.get(name)}"
                )
            elif not tensors[name].isfinite().all():
                yield f"{artifact.stage}: {artifact.path} has values in {name} that are not finite"

    def _document(self, artifact: Document) -> Iterator[str]:
        try:
            content = self.store.document(artifact)
        except FileNotFoundError:
            if not artifact.optional:
                raise Unfit("is missing") from None
            return
        except RunError as error:
            yield f"{artifact.stage}: {error}"
            return
        if artifact.summary and content != self.markers[artifact.stage].summary:
            raise Unfit("has other figures than the marker")
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


class Manifest:
    """Names of the listed images by image_id; one shard in memory at a time, since readers ask in order."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._files = MANIFEST.files(contents.markers["list"].files)
        self._ends = np.cumsum([info.rows or 0 for info in self._files], dtype=np.int64)
        self._number, self._held = -1, MANIFEST.schema().empty_table()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def violations(self) -> Iterator[str]:
        """image_ids are 0, 1, ... in order, as many as the marker says."""
        for number, info in enumerate(self._files):
            try:
                shard = self._shard(number)
            except Unfit as error:
                yield f"list: {info.path} {error}"
                continue
            stop = int(self._ends[number])
            if not np.array_equal(shard["image_id"].to_numpy(), np.arange(stop - len(shard), stop)):
                yield f"list: {info.path} has image_ids that are not {stop - len(shard)} to {stop - 1} in order"
        images = self._contents.markers["list"].summary["images"]
        if len(self) != images:
            yield f"list: {len(self)} images in its files, {images} in its marker"

    def misnamed(self, table: pa.Table) -> Iterator[str]:
        """Rows under other names than the manifest's; ids that it does not list are reported elsewhere."""
        names = [name for name in NAMES if name in table.column_names]
        if not names:
            return
        every = table["image_id"].to_numpy()
        rows = np.flatnonzero((every >= 0) & (every < len(self)))
        ids, wrong = every[rows], np.zeros(len(rows), bool)
        shard_of = np.searchsorted(self._ends, ids, side="right")
        for number in np.unique(shard_of):
            mine = np.flatnonzero(shard_of == number)
            shard = self._shard(int(number))
            listed = shard.take(pa.array(ids[mine] - (int(self._ends[number]) - len(shard))))
            here = table.take(pa.array(rows[mine]))
            for name in names:
                wrong[mine] |= pc.call_function("not_equal", [here[name], listed[name]]).to_numpy()
        if wrong.any():
            yield f"has {wrong.sum()} images under another name than the manifest's, the first {ids[wrong][0]}"

    def _shard(self, number: int) -> pa.Table:
        if self._number != number:
            self._held = self._contents.read(MANIFEST, self._files[number].path)
            self._number = number
        return self._held


def _dimensions(markers: dict[str, Marker], settings: Settings | None) -> dict[str, int]:
    """What names in declarations stand for; `inputs` follows from the classifier's description."""
    if settings is None:
        return {"clusters": len(markers["predict"].summary["class_sizes"])} if "predict" in markers else {}
    embedded = markers["embed"].summary if "embed" in markers else {}
    heads = settings.heads
    return {
        "clusters": settings.clusters,
        "heads": heads.heads,
        "hidden": heads.hidden,
        "bottleneck": heads.bottleneck,
        "epochs": heads.epochs,
        "dim": embedded.get("dim", 0),
        "block_dim": embedded.get("block_dim", 0),
    }


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
