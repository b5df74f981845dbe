"""The pictures of the manifest's chunks: read and decoded by tasks in blocks whose size does not grow with a chunk."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.io.decode import Reject, decode_and_measure, decode_each
from icce_ray.io.quality import Figures
from icce_ray.io.sources import FeatureSource
from icce_ray.stages.features import list_column
from icce_ray.stages.stream import Stream, errors_for_the_driver, packed, unpacked
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, FIGURES, MANIFEST

READ_THREADS = 8  # a task waits for storage most of the time; Pillow releases the interpreter's lock as well

#: A piece of a chunk ends only where its neighbour reads at most this share of it once more: within a row group of
#: Parquet, say, of which no reader gets to a row but by all rows before it.
READ_TWICE = 0.25

#: Seconds between two questions whether more is listed.
POLL_SECONDS = 0.5

#: What is known of an image all the way to its row.
NAMES = ("chunk", "chunk_rows", "image_id", "uri", "key")

Picture = tuple[bytes | None, str | None, str | None, Figures | None]


def announced(batch: pa.Table, *, chunks: Any) -> Iterator[pa.Table]:
    """Task: a row for each chunk: of a list, or as soon as an actor, `listing.Known`, knows of it."""
    over, count, more = isinstance(chunks, list), 0, chunks
    while True:
        if not isinstance(chunks, list):
            more, over = ray.get(chunks.after.remote(count))
        for chunk in more:
            yield pa.table({"chunk": [chunk]})
        if over:
            return
        count += len(more)
        time.sleep(POLL_SECONDS)


def split(batch: pa.Table, *, stream: Stream) -> Iterator[pa.Table]:
    """Task: pieces of chunks of the manifest, each the work of one reading task, with columns chunk and chunk_rows."""
    with errors_for_the_driver():
        for chunk in batch["chunk"].to_pylist():
            rows = Store(stream.root).storage.read_table(MANIFEST.part(chunk))
            for name, value in (("chunk_rows", len(rows)), ("chunk", chunk)):
                rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.int64()), len(rows)))
            for begin, end in pieces(stream.source.spans(rows), stream.block_rows):
                yield packed(rows.take(np.arange(begin, end)))  # a slice would travel with all of its table


def pieces(spans: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, one for each task, of rows whose `spans` are best read together.

    All but the last end at a multiple of `size`: the blocks of a chunk are the same whoever reads them.
    """
    last = 0
    for begin, end in spans:
        for edge in range(-(-begin // size) * size, end, size):
            if edge > last and edge - begin <= READ_TWICE * (edge - last):
                yield last, edge
                last = edge
    if spans:
        yield last, spans[-1][1]


def read(batch: pa.Table, *, stream: Stream) -> Iterator[pa.Table]:
    """Task: blocks of pictures of pieces of the manifest.

    Columns `NAMES`, reason, detail, pixels and what is measured of them, or features of a source that has them.
    """
    with errors_for_the_driver():
        for rows in unpacked(batch):
            first = 0
            for values in _features(rows, stream) if stream.precomputed else _pictures(rows, stream):
                named = rows.select(list(NAMES)).slice(first, len(values))
                first += len(values)
                yield packed(pa.table(dict(zip(NAMES, named.columns, strict=True)) | _columns(values, stream)))


def _columns(values: np.ndarray | list[Picture], stream: Stream) -> dict[str, pa.Array]:
    if isinstance(values, np.ndarray):
        nothing = pa.nulls(len(values), pa.string())
        return {"reason": nothing, "detail": nothing, "features": list_column(values)}
    pixels, reasons, details, figures = zip(*values, strict=True)
    kinds = (pa.string(), pa.string(), pa.binary(stream.input_bytes))
    columns = zip(("reason", "detail", "pixels"), (reasons, details, pixels), kinds, strict=True)
    found = {name: pa.array(column, kind) for name, column, kind in columns}
    for name in FIGURES if stream.measures else ():
        column = [None if one is None else getattr(one, name) for one in figures]
        found[name] = pa.array(column, FEATURES.columns[name].type)
    return found


def _features(rows: pa.Table, stream: Stream) -> Iterator[np.ndarray]:
    """float32 [n, D] of a source that has them, block by block."""
    assert isinstance(stream.source, FeatureSource)
    values = stream.source.features(rows)
    for start in range(0, len(rows), stream.block_rows):
        yield values[start : start + stream.block_rows]


def _pictures(rows: pa.Table, stream: Stream) -> Iterator[list[Picture]]:
    """(pixels, reason, detail, figures) of each image, or None, block by block; several are read at a time.

    A span that lies in several blocks is read on where the block before has stopped.
    """
    source, embed, size = stream.source, stream.embed, stream.block_rows
    wanted = [(model.image_size, model.preprocessing.resizing) for model in stream.info.models]

    def picture(data: bytes | Reject) -> Picture:
        try:
            if isinstance(data, Reject):
                raise data
            if stream.measures:
                squares, figures = decode_and_measure(data, wanted=wanted, max_pixels=embed.max_pixels)
            else:
                squares, figures = decode_each(data, wanted=wanted, max_pixels=embed.max_pixels), None
            return b"".join(pixels.tobytes() for pixels in squares), None, None, figures
        except Reject as reject:
            return None, reject.reason, reject.detail, None

    def pictures(part: Iterator[bytes | Reject]) -> list[Picture]:
        return [picture(data) for data in part]

    spans = source.spans(rows)
    readers = list(source.read_spans(rows, max_bytes=embed.max_bytes))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(rows), size):
            parts = [
                itertools.islice(reader, min(end, start + size) - max(begin, start))
                for reader, (begin, end) in zip(readers, spans, strict=True)
                if begin < start + size and end > start
            ]
            yield list(itertools.chain.from_iterable(pool.map(pictures, parts)))
