"""Blocks of images to features or labels, and these to the shard of their chunk: what actors do, and the last tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.backbones import load_backbone
from icce_ray.core.recipe import product_precision
from icce_ray.stages.cluster import threads_here
from icce_ray.stages.features import list_column, matrix
from icce_ray.stages.reading import NAMES
from icce_ray.stages.stream import Stream, errors_for_the_driver, packed, unpacked
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FIGURES

_NONFINITE = (
    "the feature has a number that is not finite, or beyond 65504, the largest of float16; divide all features, later "
    "ones for icce predict too, by one number, or by their lengths"
)
_ZERO = (
    "the feature is zero in float16: a picture without structure, or all numbers below 6e-8; multiply all features, "
    "later ones for icce predict too, by one number"
)


class Embedder:
    """Actor: a block of pictures to features, and through a run's classifier to labels where the stream has one.

    Called by two threads at a time on a GPU, so a call changes nothing here.
    """

    def __init__(self, *, stream: Stream, device: str, sharers: int) -> None:
        import torch  # here and below: the tasks of this module never need it, and importing it takes seconds

        from icce_ray.stages.classifier import Labeller

        torch.set_num_threads(threads_here(sharers))
        self.batch, self.spans = stream.batch, stream.spans
        self.labeller = Labeller(stream.classifier, device=device) if stream.classifier else None
        precision = product_precision(stream.embed.precision, device)
        self.backbone = None if stream.precomputed else load_backbone(stream.info, device=device, dtype=precision)

    def __call__(self, block: pa.Table) -> pa.Table:
        """A block of what `reading.read` gives, batch by batch; of what `write` takes."""
        with errors_for_the_driver():
            (rows,) = unpacked(block)
            batches = (rows.slice(start, self.batch) for start in range(0, len(rows), self.batch))
            return packed(pa.concat_tables(map(self._embedded, batches)))

    def _embedded(self, table: pa.Table) -> pa.Table:
        main, blocks = self._features(table)
        figures = [(name, table[name]) for name in FIGURES if name in table.column_names]
        table = _reject_bad_features(table, main, blocks, self.spans)
        if self.labeller is not None:
            return self.labeller(main, blocks).beside(table)
        table = table.append_column("features", list_column(main))
        table = table.append_column("cls_blocks", list_column(blocks)) if blocks.shape[1] else table
        for name, column in figures:
            table = table.append_column(name, column)
        return table

    def _features(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """float16 [n, D] and [n, D_blocks], zero where there is no picture; beyond float16 is inf: a reject later."""
        if self.backbone is None:
            with np.errstate(over="ignore"):
                return matrix(table["features"]).astype(np.float16), np.zeros((len(table), 0), np.float16)
        good = np.flatnonzero(table["reason"].is_null().to_numpy(zero_copy_only=False))
        main = np.zeros((len(table), self.backbone.info.dim), np.float16)
        blocks = np.zeros((len(table), self.backbone.info.block_dim), np.float16)
        if len(good):
            pixels = _pixels(table["pixels"].combine_chunks().take(pa.array(good)))
            features = self.backbone.embed(pixels if self.backbone.info.parts else _squares(pixels))
            with np.errstate(over="ignore"):
                main[good] = features.main
                if features.cls_blocks is not None:
                    blocks[good] = features.cls_blocks
        return main, blocks


def _pixels(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """uint8[n, bytes] of a column of raw pictures, without a copy."""
    width = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :]
    return flat[: len(column) * width].reshape(len(column), width)


def _squares(pixels: np.ndarray) -> np.ndarray:
    """uint8[n, S, S, 3] of the bytes of each picture."""
    side = round((pixels.shape[1] / 3) ** 0.5)
    return pixels.reshape(len(pixels), side, side, 3)


def _reject_bad_features(
    table: pa.Table, main: np.ndarray, blocks: np.ndarray, spans: Sequence[tuple[int, int]]
) -> pa.Table:
    """The table without its input; rows whose features have no direction in any space become rejects, and zero."""
    reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
    finite = np.isfinite(main).all(1) & np.isfinite(blocks).all(1)
    for row in np.flatnonzero(~finite):
        reasons[row], details[row] = "nonfinite_feature", _NONFINITE
    zero = np.any([~main[:, start:stop].any(1) for start, stop in spans], axis=0)
    for row in np.flatnonzero(zero):
        if reasons[row] is None:
            reasons[row], details[row] = "zero_feature", _ZERO
    main[~finite | zero] = 0
    blocks[~finite | zero] = 0
    table = table.select(list(NAMES))
    table = table.append_column("reason", pa.array(reasons, pa.string()))
    return table.append_column("detail", pa.array(details, pa.string()))


def write(blocks: pa.Table, *, stream: Stream) -> pa.Table:
    """Task: write the accepted and rejected rows of a chunk, of which these are all blocks; a row for each file.

    Rejects are written first: the accepted shard, which a chunk always has, says that the chunk is done. Rows that are
    missing, or of another chunk, are an error: the shard would look complete without them. Blocks stay apart, as
    Parquet's writer makes four bytes beside each number of a column that comes in one piece.
    """
    with errors_for_the_driver():
        rows = pa.concat_tables(unpacked(blocks))
        chunk, size, ids = rows["chunk"][0].as_py(), rows["chunk_rows"][0].as_py(), rows["image_id"].to_numpy()
        own = int((rows["chunk"].to_numpy() == chunk).sum())
        if not len(rows) == own == size or not (ids == np.arange(ids[0], ids[0] + size)).all():
            raise RunError(f"chunk {chunk} came with {own} of {size} images, of {len(rows)}; report this")
        ok = rows.filter(pc.field("reason").is_null()).drop_columns(["chunk", "chunk_rows", "reason", "detail"])
        bad = rows.filter(pc.field("reason").is_valid()).select(list(stream.rejected.columns))
        storage = Store(stream.root).storage
        written = [stream.rejected.write(storage, bad, chunk)] if len(bad) else []
        written.append(stream.accepted.write(storage, ok, chunk))
        return pa.Table.from_pylist([vars(info) for info in written])
