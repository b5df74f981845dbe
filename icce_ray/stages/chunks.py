"""One chunk of images from the manifest to its shards: read, decode, backbone, rows; what Ray's workers run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import UserCodeException

from icce_ray.backbones import BackboneInfo, load_backbone
from icce_ray.core.recipe import product_precision
from icce_ray.io.decode import Reject, decode
from icce_ray.io.sources import FeatureSource, Source
from icce_ray.settings import EmbedSettings
from icce_ray.stages.cluster import threads_here
from icce_ray.stages.features import list_column, matrix
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MANIFEST, Table

READ_THREADS = 8  # a task waits for storage most of the time; Pillow releases the interpreter's lock as well

_NONFINITE = (
    "the feature has a number that is not finite, or beyond 65504, the largest of float16; divide all features, later "
    "ones for icce predict too, by one number, or by their lengths"
)
_ZERO = (
    "the feature is zero in float16: a picture without structure, or all numbers below 6e-8; multiply all features, "
    "later ones for icce predict too, by one number"
)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What every task and actor of one pass over the images has to know.

    Attributes:
        source: of the images, as it was listed.
        root: of the run or prediction that holds the manifest and gets the shards.
        embed: how images are read and embedded.
        info: what the backbone gives; of a source of features, which needs none, what it holds.
        accepted: table of the rows with a result.
        rejected: table of the rows with a reason.
        classifier: root of the run that labels the features; None writes the features themselves.
    """

    source: Source
    root: str
    embed: EmbedSettings
    info: BackboneInfo
    accepted: Table
    rejected: Table
    classifier: str | None = None


class TaskError(RunError, UserCodeException):
    """An error of a task whose `message` the user should see; Ray Data adds words of its own to `args` on the way."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@contextlib.contextmanager
def errors_for_the_driver() -> Iterator[None]:
    """Errors of this package, which say what to do, as TaskError; any other as a fault of the program."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.startswith("icce_ray.")
        raise TaskError(str(error)) if ours else UserCodeException(f"{type(error).__name__}: {error}") from error


def read(batch: pa.Table, *, chunks: np.ndarray, stream: Stream) -> pa.Table:
    """Task: one chunk of the manifest with its pictures.

    Columns chunk, chunk_rows, image_id, uri, key, reason, detail and pixels, or features of a source that has them.
    """
    with errors_for_the_driver():
        if batch.num_rows != 1:
            raise RuntimeError(f"{batch.num_rows} chunks came as one block; chunks must stay apart")
        chunk = int(chunks[batch["id"][0].as_py()])
        rows = Store(stream.root).storage.read_table(MANIFEST.part(chunk))
        if isinstance(stream.source, FeatureSource):
            reasons = details = pa.nulls(len(rows), pa.string())
            name, values = "features", list_column(stream.source.features(rows))
        else:
            pixels, reasons, details = zip(*_pictures(rows, stream), strict=True)
            name, values = "pixels", pa.array(pixels, pa.binary(stream.info.image_size**2 * 3))
    return pa.table(
        {
            "chunk": pa.repeat(pa.scalar(chunk, pa.int64()), len(rows)),
            "chunk_rows": pa.repeat(pa.scalar(len(rows), pa.int64()), len(rows)),
            **{column: rows[column] for column in ("image_id", "uri", "key")},
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
            name: values,
        }
    )


Picture = tuple[bytes | None, str | None, str | None]


def _pictures(rows: pa.Table, stream: Stream) -> Iterator[Picture]:
    """(pixels, reason, detail) of each image, the first or the others None; several are read at a time."""
    embed = stream.embed

    def picture(data: bytes | Reject) -> Picture:
        try:
            if isinstance(data, Reject):
                raise data
            pixels = decode(data, size=stream.info.image_size, resize=embed.resize, max_pixels=embed.max_pixels)
            return pixels.tobytes(), None, None
        except Reject as reject:
            return None, reject.reason, reject.detail

    def pictures(span: Iterator[bytes | Reject]) -> list[Picture]:
        return [picture(data) for data in span]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        spans = stream.source.read_spans(rows, max_bytes=embed.max_bytes)
        yield from itertools.chain.from_iterable(pool.map(pictures, spans))


class Embedder:
    """Actor: a batch of pictures to features, and through a run's classifier to labels where the stream has one.

    Called by two threads at a time on a GPU, so a call changes nothing here.
    """

    def __init__(self, *, stream: Stream, device: str, sharers: int) -> None:
        import torch  # here and below: the tasks of this module never need it, and importing it takes seconds

        from icce_ray.stages.classifier import Labeller

        torch.set_num_threads(threads_here(sharers))
        self.labeller = Labeller(stream.classifier, device=device) if stream.classifier else None
        precision = product_precision(stream.embed.precision, device)
        needed = not isinstance(stream.source, FeatureSource)
        self.backbone = load_backbone(stream.info, device=device, dtype=precision) if needed else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """A batch of what `read` returns; of what `write` takes."""
        with errors_for_the_driver():
            main, blocks = self._features(table)
            table = _reject_bad_features(table, main, blocks)
            if self.labeller is not None:
                label, confidence = self.labeller(main, blocks)
                return table.append_column("label", pa.array(label)).append_column("confidence", pa.array(confidence))
            table = table.append_column("features", list_column(main))
            return table.append_column("cls_blocks", list_column(blocks)) if blocks.shape[1] else table

    def _features(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """float16 [n, D] and [n, D_blocks], zero where there is no picture; beyond float16 is inf: a reject later."""
        if self.backbone is None:
            with np.errstate(over="ignore"):
                return matrix(table["features"]).astype(np.float16), np.zeros((len(table), 0), np.float16)
        good = np.flatnonzero(table["reason"].is_null().to_numpy(zero_copy_only=False))
        main = np.zeros((len(table), self.backbone.info.dim), np.float16)
        blocks = np.zeros((len(table), self.backbone.info.block_dim), np.float16)
        if len(good):
            features = self.backbone.embed(_pixels(table["pixels"].combine_chunks().take(pa.array(good))))
            with np.errstate(over="ignore"):
                main[good] = features.main
                if features.cls_blocks is not None:
                    blocks[good] = features.cls_blocks
        return main, blocks


def _pixels(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """uint8[n, S, S, 3] of a column of raw pictures, without a copy."""
    width = column.type.byte_width
    side = round((width / 3) ** 0.5)
    flat = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :]
    return flat[: len(column) * width].reshape(len(column), side, side, 3)


def _reject_bad_features(table: pa.Table, main: np.ndarray, blocks: np.ndarray) -> pa.Table:
    """The table without its input; rows whose features have no direction become rejects, and zero in place."""
    reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
    finite = np.isfinite(main).all(1) & np.isfinite(blocks).all(1)
    for row in np.flatnonzero(~finite):
        reasons[row], details[row] = "nonfinite_feature", _NONFINITE
    for row in np.flatnonzero(~main.any(1)):
        if reasons[row] is None:
            reasons[row], details[row] = "zero_feature", _ZERO
    main[~finite] = 0
    blocks[~finite] = 0
    table = table.select(["chunk", "chunk_rows", "image_id", "uri", "key"])
    table = table.append_column("reason", pa.array(reasons, pa.string()))
    return table.append_column("detail", pa.array(details, pa.string()))


def write(table: pa.Table, *, stream: Stream) -> pa.Table:
    """Task: write the accepted and rejected rows of each chunk; a row for each file, for the driver.

    Rejects are written first: the accepted shard, which a chunk always has, says that the chunk is done. A chunk of
    which rows are missing is an error: its shard would look complete without them.
    """
    storage, written = Store(stream.root).storage, []
    for chunk in table["chunk"].unique().to_pylist():
        rows = table.filter(pc.field("chunk") == chunk)
        if len(rows) != rows["chunk_rows"][0].as_py():
            raise RunError(f"chunk {chunk} came with {len(rows)} of {rows['chunk_rows'][0]} images; report this")
        ok = rows.filter(pc.field("reason").is_null()).drop_columns(["chunk", "chunk_rows", "reason", "detail"])
        bad = rows.filter(pc.field("reason").is_valid()).select(list(stream.rejected.columns))
        written += [stream.rejected.write(storage, bad, chunk)] if len(bad) else []
        written.append(stream.accepted.write(storage, ok, chunk))
    return pa.Table.from_pylist([vars(info) for info in written])
