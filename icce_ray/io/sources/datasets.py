"""Images in a folder that `save_to_disk` of Hugging Face `datasets` has written, read without that library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from functools import cached_property
from typing import NotRequired

import pyarrow as pa
from pyarrow import types
from typing_extensions import TypedDict

from icce_ray.documents import DocumentError, parse_json, shaped, shown
from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError
from icce_ray.io.sources import columns
from icce_ray.io.sources.arrow import ArrowStream, Batch
from icce_ray.io.sources.base import TABLE_ROWS, SourceSpec
from icce_ray.io.sources.fetch import fetch, too_large
from icce_ray.io.sources.tables import RowAccess
from icce_ray.io.sources.walk import Listed
from icce_ray.io.stores import HeaderError, StoredFile, parsing

#: What `save_to_disk` leaves beside the Arrow files: of a dataset, and of a DatasetDict above its splits.
STATE, SPLITS = "state.json", "dataset_dict.json"
_MOST_STATE = 16 << 20
#: Bytes read ahead of headers, and while whole rows are streamed; headers of files kept, as for Parquet.
_HEADERS, _ROWS, _STREAMS = 1 << 16, 4 << 20, 16


class _File(TypedDict):
    filename: str


class _State(TypedDict):
    """What is used of `state.json`; datasets before 2.0 could leave the order of the rows in files of their own."""

    _data_files: list[_File]
    _fingerprint: NotRequired[str | None]
    _indices_data_files: NotRequired[list[_File] | None]


class _Splits(TypedDict):
    splits: list[str]


class DatasetSource(RowAccess):
    """A binary column, or a struct with `bytes` (and `path`) as an `Image` feature is, of Arrow files.

    Only the files that `state.json` names count: `map` leaves its caches beside them. A row is read by itself, with one
    request. A single `.arrow` file is a source too. Nothing of `datasets` runs here: neither scripts nor its caches.
    """

    endings = (".arrow",)
    lacks = "the Arrow files have no rows"
    span = 64

    def __init__(self, spec: SourceSpec) -> None:
        """See `TableSource`."""
        self._streams: dict[str, ArrowStream] = {}
        super().__init__(spec)

    @cached_property
    def state(self) -> _State:
        """Of the folder. Raises SourceError for a folder without one, and for the splits of a DatasetDict."""
        location = self.spec.location
        data = fetch(location, STATE, max_bytes=_MOST_STATE)
        try:
            if isinstance(data, Reject):
                self._refuse_splits()
                raise SourceError(
                    f"{location!r} is no folder that save_to_disk has written: {STATE}: {data}; load what you have "
                    "with `datasets`, and save it with dataset.save_to_disk(FOLDER)"
                )
            state = shaped(_State, parse_json(data))
        except DocumentError as error:
            raise SourceError(f"{STATE} in {location!r} cannot be used: {error}; save the dataset again") from error
        names = [file["filename"] for file in state["_data_files"]]
        wrong = next((name for name in names if "/" in name or not name.endswith(".arrow")), None)
        if wrong is not None or len(set(names)) < len(names) or state.get("_indices_data_files"):
            raise SourceError(
                f"{STATE} in {location!r} names {shown(wrong) if wrong is not None else 'files twice, or of indices'}: "
                "all rows must stand in .arrow files of this folder, in their order; save the dataset again"
            )
        return state

    def _refuse_splits(self) -> None:
        data = fetch(self.spec.location, SPLITS, max_bytes=_MOST_STATE)
        if not isinstance(data, Reject):
            splits = shaped(_Splits, parse_json(data))["splits"]
            folder, one = (
                self.spec.location.partition("?")[0].rstrip("/"),
                shown(next(iter(splits), "train"), plain=True),
            )
            raise SourceError(
                f"{self.spec.location!r} is a DatasetDict with the splits {shown(', '.join(splits), plain=True)}; give "
                f"the folder of one of them, such as {folder}/{one}"
            )

    def found(self, left_out: Counter[str]) -> Iterator[Listed]:
        """The files that `state.json` names; a source of one file is that file."""
        coming = super().found(left_out)
        if self.is_file:
            yield from coming
            return
        missing = {file["filename"] for file in self.state["_data_files"]}
        for path, size in coming:
            if path in missing:
                missing.discard(path)
                yield path, size
            else:
                left_out["other files"] += 1
        if missing:
            raise SourceError(
                f"{self.spec.location!r} lacks {len(missing)} of the files that its {STATE} names, such as "
                f"{shown(min(missing))}; copy the folder again"
            )

    def counted(self) -> Iterator[Listed]:
        """See `Source`; a dataset that was changed and saved in its place has another fingerprint."""
        coming = super().counted()
        first = next(coming)
        if not self.is_file:
            self.seen(f"{STATE}:{self.state.get('_fingerprint')}", None)
        yield first
        yield from coming

    def schema_of(self, container: str) -> pa.Schema:
        """See `TableSource`."""
        with self.required(container, ahead=_HEADERS) as file:
            return self._readable(container, file).schema

    def tables(self, container: str) -> Generator[pa.Table]:
        """Rows of one file, named by its columns `keys`; reads those and the lengths of the images."""
        name = self.name_of(container)
        with self.required(container, ahead=_HEADERS) as file:
            stream = self._readable(container, file)
            columns.check_column(name, stream.schema, self.column, self.fits)
            self.check_keys(name, stream.schema)
            for batch in stream.batches:
                try:
                    keys = [columns.as_text(stream.column(batch, key)) for key in self.keys]
                    sizes = stream.lengths(batch, _data_of(stream.schema, self.column))
                except (HeaderError, pa.ArrowException) as error:
                    raise SourceError(f"{name}: rows from {batch.first} on cannot be read: {error}") from error
                yield from _numbered(name, container, batch, keys, pa.array(sizes, mask=sizes < 0))

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """Each image by itself; those that follow each other with few requests."""
        container, done = rows["container"][0].as_py(), 0
        try:
            with self.open(container, least=_HEADERS, most=_HEADERS) as file:
                stream = self._stream(container, file)
                columns.check_column(self.name_of(container), stream.schema, self.column, self.fits)
                data = _data_of(stream.schema, self.column)
                for value in stream.values(data, rows["position"].to_pylist(), max_bytes):
                    yield _image(value, max_bytes)
                    done += 1
        except (Reject, HeaderError, EOFError, SourceError) as error:
            reject = error if isinstance(error, Reject) else Reject("unreadable", f"damaged Arrow file: {error}"[:300])
            for _ in range(done, len(rows)):
                yield reject

    def whole_rows(self, container: str) -> Generator[pa.RecordBatch]:
        """See `TableSource`; a batch of the file at a time, by pyarrow's own reader."""
        name = self.name_of(container)
        file, first = self.required(container, ahead=_ROWS), 0
        try:
            with file:
                with parsing():
                    reader = pa.ipc.open_stream(file)
                    _ = [name.encode() for name in reader.schema.names]
                while True:
                    with parsing():
                        batch = next(iter(reader), None)
                        if batch is None:
                            return
                        batch.validate(full=True)
                    yield batch
                    first += len(batch)
        except HeaderError as error:
            raise SourceError(f"{name}: rows from {first} on cannot be read: {error}") from error

    def _readable(self, container: str, file: StoredFile) -> ArrowStream:
        try:
            return self._stream(container, file)
        except HeaderError as error:
            raise SourceError(
                f"{self.name_of(container)} in {self.spec.location!r} cannot be read ({file.size} bytes): {error}"
            ) from error

    def _stream(self, container: str, file: StoredFile) -> ArrowStream:
        """The stream of an open file, whose headers may be known."""
        known = self._streams.get(container)
        if known is not None and known.size == file.size:
            return known.on(file)
        stream = ArrowStream(file)
        if len(self._streams) >= _STREAMS:
            self._streams.clear()
        self._streams[container] = stream
        return stream


def _data_of(schema: pa.Schema, column: str) -> str:
    return f"{column}.bytes" if types.is_struct(schema.field(column).type) else column


def _numbered(name: str, container: str, batch: Batch, keys: list[pa.Array], sizes: pa.Array) -> Iterator[pa.Table]:
    for begin in range(0, batch.rows, TABLE_ROWS):
        count = min(TABLE_ROWS, batch.rows - begin)
        some = [key.slice(begin, count) for key in keys]
        table = columns.numbered(name, container, batch.first + begin, count, some)
        yield table.set_column(table.schema.get_field_index("size"), "size", sizes.slice(begin, count))


def _image(value: bytes | int | None, max_bytes: int) -> bytes | Reject:
    if value is None:
        return Reject("empty", "the row has no bytes; if it has a path, that is a file elsewhere")
    if isinstance(value, int):
        return too_large(value, max_bytes)
    return value or Reject("empty", "the row has 0 bytes")
