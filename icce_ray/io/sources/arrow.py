"""Arrow streams read at any row: where in the file the values of a column lie.

A stream is one message after another: the schema, then batches of rows, each a header and its buffers. pyarrow reads
such a file from the beginning, or maps it into memory, where a file that shrinks meanwhile kills the process. So the
headers alone are read here (Arrow's "Columnar Format", of its IPC messages), and of the buffers what a row
needs: one request a row, on a disk as in a bucket.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from icce_ray.io.stores import HeaderError, StoredFile, parsing

#: Bytes of a header, at most: that of a batch of a thousand columns has 100 kB.
_MOST_HEADER = 16 << 20
#: Values of rows that are so near to each other, in bytes, come together, up to so many.
_NEAR, _TOGETHER = 1 << 16, 4 << 20
#: What a message may hold, by its number in the format.
_SCHEMA, _BATCH = 1, 3


class Buffers(NamedTuple):
    """A column among the buffers of a batch: those that say which rows are null, and those of its values."""

    kind: pa.DataType
    validity: tuple[int, ...]
    values: tuple[int, ...]


class Batch(NamedTuple):
    """Rows of the stream: `first` is the number of the first of them, `buffers` int64 [n, 2] place and bytes."""

    first: int
    rows: int
    buffers: np.ndarray


class ArrowStream:
    """An open Arrow stream.

    Attributes:
        schema: its columns.
        size: bytes of the file.
        batches: its batches of rows.
        rows: how many there are.
    """

    def __init__(self, file: StoredFile) -> None:
        """Reads the headers. Raises HeaderError for what is no Arrow stream, is cut, or compresses its buffers."""
        self._file, self.size = file, file.size
        with parsing():
            self.schema, headers = _headers(file)
            rows = [_batch(header) for header in headers]
            places, expected = _places(self.schema)
            wrong = next((len(buffers) for _, buffers in rows if len(buffers) != expected), None)
            if wrong is not None:
                raise ValueError(f"a batch has {wrong} buffers, its columns have {expected}")
        starts = list(accumulate((count for count, _ in rows), initial=0))
        self.rows, self._starts, self._places = starts[-1], starts, places
        self.batches = [Batch(first, count, buffers) for first, (count, buffers) in zip(starts[:-1], rows, strict=True)]
        if self.rows > 8 * file.size:
            raise HeaderError(f"it announces {self.rows} rows")

    def on(self, file: StoredFile) -> ArrowStream:
        """The same stream, read from a file that was opened again."""
        other = copy(self)
        other._file = file
        return other

    def column(self, batch: Batch, name: str) -> pa.Array:
        """A column of plain values, or `parent.field` of a struct. Raises HeaderError for nested or damaged ones."""
        column = self._column(name)
        with parsing():
            own, *outer = [self._read(batch, number) for number in reversed(column.validity)]
            buffers = [own, *(self._read(batch, number) or pa.py_buffer(b"") for number in column.values)]
            # Names need not be UTF-8, which validation asks of text but not of bytes.
            checked = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.kind, column.kind)
            array = pa.Array.from_buffers(checked, batch.rows, buffers)
            array.validate(full=True)
            array = array.view(column.kind)
            for buffer in outer:
                if buffer is not None:
                    valid = pa.Array.from_buffers(pa.bool_(), batch.rows, [None, buffer])
                    array = pc.call_function("if_else", [valid, array, pa.scalar(None, array.type)])
        return array

    def lengths(self, batch: Batch, name: str) -> np.ndarray:
        """Bytes of each value of a binary column, int64 [rows]; -1 for null, and where damage makes them less."""
        _, lengths = self._places_of(batch, self._column(name), 0, batch.rows)
        return np.maximum(lengths, -1)

    def values(self, name: str, positions: list[int], most: int) -> Iterator[bytes | int | None]:
        """Of rows of a binary column, ascending: the bytes; None for null; how many there are, if more than `most`.

        Raises HeaderError for a row that is not there or damaged, EOFError for the first row behind the last.
        """
        column, done = self._column(name), 0
        while done < len(positions):
            number = bisect_right(self._starts, positions[done]) - 1
            if number >= len(self.batches):
                raise EOFError(f"the file has only {self.rows} rows now")
            batch = self.batches[number]
            end = next((at for at in range(done, len(positions)) if positions[at] >= batch.first + batch.rows), None)
            some = [row - batch.first for row in positions[done:end]]
            begins, lengths = self._places_of(batch, column, some[0], some[-1] + 1)
            chosen = np.asarray(some) - some[0]
            yield from self._bytes_of(batch, column.values[1], begins[chosen].tolist(), lengths[chosen].tolist(), most)
            done += len(some)

    def _bytes_of(
        self, batch: Batch, number: int, begins: list[int], lengths: list[int], most: int
    ) -> Iterator[bytes | int | None]:
        """`values` of one batch, of which begin and length are known: neighbours come with one request."""
        start, size = (int(part) for part in batch.buffers[number])
        low, block = 0, b""
        for row, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            if length == -1 or length > most:
                yield None if length == -1 else length
                continue
            end = begin + length
            if length < 0 or begin < 0 or end > size:
                raise HeaderError(f"a value announces bytes {begin} to {end} of {size}")
            if not low <= begin <= end <= low + len(block):
                upto = end
                for after, more in zip(begins[row + 1 :], lengths[row + 1 :], strict=True):
                    if not (upto <= after <= upto + _NEAR and 0 <= more <= min(most, size - after)):
                        break
                    if after + more - begin > _TOGETHER:
                        break
                    upto = after + more
                low, block = begin, self._file.read_at(start + begin, upto - begin)
            yield block[begin - low : end - low]

    def _column(self, name: str) -> Buffers:
        column = self._places.get(name)
        if column is None:
            raise HeaderError(f"column {name!r} is nested, or of a type that cannot be read row by row")
        return column

    def _places_of(self, batch: Batch, column: Buffers, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Where values of a binary column begin among its bytes, and how many each has, both int64; -1 for null."""
        is_large = types.is_large_binary(column.kind)
        width = 8 if is_large else 4
        offsets = np.zeros(high - low + 1, np.int64)
        if high > low:
            data = self._part(batch, column.values[0], low * width, (high - low + 1) * width)
            offsets = np.frombuffer(data, np.dtype("<i8" if is_large else "<i4")).astype(np.int64)
        with np.errstate(over="ignore"):
            lengths = np.diff(offsets)
        lengths[lengths < 0] = -2  # damaged
        for number in column.validity:
            if batch.buffers[number, 1]:
                data = self._part(batch, number, low // 8, (high + 7) // 8 - low // 8)
                bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
                lengths[bits[low % 8 : low % 8 + high - low] == 0] = -1
        return offsets[:-1], lengths

    def _part(self, batch: Batch, number: int, begin: int, size: int) -> bytes:
        start, most = (int(part) for part in batch.buffers[number])
        if begin + size > most:
            raise HeaderError(f"a batch of {batch.rows} rows has {most} bytes where {begin + size} are needed")
        return self._file.read_at(start + begin, size)

    def _read(self, batch: Batch, number: int) -> pa.Buffer | None:
        start, size = (int(part) for part in batch.buffers[number])
        return pa.py_buffer(self._file.read_at(start, size)) if size else None


class _Header(NamedTuple):
    """The header of a batch, a table of flatbuffers at `table`, and where its buffers lie."""

    data: bytes
    table: int
    body: int
    body_size: int


def _headers(file: StoredFile) -> tuple[pa.Schema, list[_Header]]:
    schema, found, at = None, [], 0
    while at < file.size:
        file.seek(at)
        head = file.read(8)
        mark, length = struct.unpack("<Ii", head.ljust(8, b"\0"))
        if mark != 0xFFFFFFFF:  # as written before Arrow 0.15
            length, start = int.from_bytes(head[:4], "little", signed=True), at + 4
        else:
            start = at + 8
        if length == 0:  # the end, which may be left out
            break
        if not 0 < length <= min(_MOST_HEADER, file.size - start):
            raise ValueError(f"no Arrow stream: a header of {length} bytes at {at}")
        file.seek(start)
        data = file.read(length)
        message = struct.unpack_from("<I", data)[0]
        kind, table = _number(data, message, 1, "<B"), _pointed(data, message, 2)
        body, size = start + length, _number(data, message, 3, "<q")
        if not 0 <= size <= file.size - body:
            raise ValueError(f"it ends within a batch: {file.size - body} of {size} bytes are there")
        if schema is None:
            if kind != _SCHEMA:
                raise ValueError("no Arrow stream: it does not begin with a schema")
            schema = pa.ipc.read_schema(pa.py_buffer(file.read_at(at, body - at)))
        elif kind == _BATCH:
            found.append(_Header(data, table, body, size))
        at = body + size
    if schema is None:
        raise ValueError("no Arrow stream: it is empty")
    return schema, found


def _batch(header: _Header) -> tuple[int, np.ndarray]:
    """Rows of a batch, and place and bytes of each buffer, int64 [n, 2]."""
    data, table, body, size = header
    if _field(data, table, 3):
        raise ValueError("its buffers are compressed; write it without compression, as `save_to_disk` does")
    rows, vector = _number(data, table, 0, "<q"), _pointed(data, table, 2)
    count = struct.unpack_from("<I", data, vector)[0]
    if 16 * count > len(data) - vector:
        raise ValueError(f"a header of {len(data)} bytes announces {count} buffers")
    buffers = np.frombuffer(data, "<i8", 2 * count, vector + 4).reshape(count, 2).copy()
    if rows < 0 or (buffers < 0).any() or (buffers > size).any() or (buffers.sum(axis=1) > size).any():
        raise ValueError(f"a batch of {rows} rows has buffers beyond its {size} bytes")
    buffers[:, 0] += body
    return rows, buffers


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table of flatbuffers lies, 0 if it is left out."""
    about = table - struct.unpack_from("<i", data, table)[0]
    if about < 0:
        raise ValueError("a damaged header")
    if 4 + 2 * number >= struct.unpack_from("<H", data, about)[0]:
        return 0
    offset = struct.unpack_from("<H", data, about + 4 + 2 * number)[0]
    return offset and table + offset


def _number(data: bytes, table: int, number: int, layout: str) -> int:
    at = _field(data, table, number)
    return struct.unpack_from(layout, data, at)[0] if at else 0


def _pointed(data: bytes, table: int, number: int) -> int:
    """The table or vector that a field leads to."""
    at = _field(data, table, number)
    if not at:
        raise ValueError("a damaged header")
    return at + struct.unpack_from("<I", data, at)[0]


# -- which buffer is whose -----------------------------------------------------------------------------------------


def _places(schema: pa.Schema) -> tuple[dict[str, Buffers], int]:
    """Columns of plain values, and such fields of structs as `parent.field`, with their buffers; how many all have."""
    found: dict[str, Buffers] = {}
    count = 0
    for field in schema:
        if types.is_struct(field.type):
            outer, count = count, count + 1
            for part in field.type.fields:
                size = _buffers(part.type)
                if _is_plain(part.type):
                    found[f"{field.name}.{part.name}"] = Buffers(
                        part.type, (outer, count), tuple(range(count + 1, count + size))
                    )
                count += size
            continue
        size = _buffers(field.type)
        if _is_plain(field.type):
            found[field.name] = Buffers(field.type, (count,), tuple(range(count + 1, count + size)))
        count += size
    return found, count


def _is_plain(kind: pa.DataType) -> bool:
    special = types.is_nested(kind) or types.is_dictionary(kind) or types.is_null(kind)
    return not special and not isinstance(kind, pa.BaseExtensionType)


def _buffers(kind: pa.DataType) -> int:
    """Buffers of a column of this type, those of its children counted. Raises ValueError where only the batch says."""
    if isinstance(kind, pa.BaseExtensionType):
        return _buffers(kind.storage_type)
    of_children = sum(_buffers(kind.field(number).type) for number in range(kind.num_fields))
    if types.is_null(kind) or types.is_run_end_encoded(kind):
        return of_children
    if types.is_struct(kind) or types.is_fixed_size_list(kind):
        return 1 + of_children
    if types.is_union(kind):
        return (2 if kind.mode == "dense" else 1) + of_children
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return 3 + of_children
    if types.is_string_view(kind) or types.is_binary_view(kind):
        raise ValueError(f"a column of {kind}, of which each batch may have any number of buffers; write it as binary")
    strings = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return 3 if any(of_type(kind) for of_type in strings) else 2 + of_children
