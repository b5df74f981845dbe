"""The stream from images to features, one numbered chunk of the manifest at a time (Ray Data).

Chunk c is `manifest/part-c.parquet`. Decoding runs as tasks, the backbone in actors, writing as tasks again, and the
rows of a chunk stay in one block all the way (small chunks may share one), so that what is written has a deterministic
name and content: a killed run repeats exactly the chunks whose file is not there. Only a row of counts a chunk reaches
the driver.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from ray.exceptions import RayTaskError

from icce_ray.core.recipe import product_precision
from icce_ray.io.decode import Reject, decode
from icce_ray.io.sources import FeatureSource, SourceSpec, open_source
from icce_ray.settings import EmbedSettings
from icce_ray.stages.cluster import Resources, others_cluster, threads_here
from icce_ray.stages.features import list_column, matrix
from icce_ray.store import ARTIFACTS, RunError, Store

READ_THREADS = 8  # a task waits for storage most of the time; Pillow releases the interpreter's lock as well
MAX_CPU_ACTORS = 4  # of a node; each holds the weights

_NONFINITE = (
    "the feature has a number that is not finite, or beyond 65504, the largest of float16; divide all features, later "
    "ones for icce predict too, by one number, or by their lengths"
)
_ZERO = (
    "the feature is zero in float16: a picture without structure, or all numbers below 6e-8; multiply all features, "
    "later ones for icce predict too, by one number"
)


class Pool(NamedTuple):
    """Actors of the backbone: how many at least and at most, the CPUs each holds, how many share a node."""

    least: int
    most: int
    cpus: float
    sharers: int


def pool_of(resources: Resources, cluster: Mapping[str, float], *, asked: int | None, chunks: int) -> Pool:
    """One actor a GPU, else a few on every node; on a cluster that may grow as many as find a place, unless `asked`.

    Actors hold their CPUs for good: on CPUs half of all there are, the rest is for decoding, or nothing ever moves.
    """
    gpu = resources.device == "cuda"
    default = resources.gpus if gpu else min(MAX_CPU_ACTORS, resources.cores) * resources.nodes
    count = max(1, min(asked or default, chunks))
    cpus = 0.1 if gpu else 0.5 * cluster.get("CPU", 1) / max(count, asked or default)
    return Pool(
        least=count,
        most=chunks if asked is None and others_cluster() else count,
        cpus=float(int(cpus)) if cpus > 1 else cpus,
        sharers=-(-count // resources.nodes),
    )


def stream(
    *,
    source: SourceSpec,
    root: str,
    chunks: Sequence[int],
    embed: EmbedSettings,
    image_size: int,
    resources: Resources,
    actors: int | None,
    batch: int,
    labeller: str | None,
    write: Callable[..., pa.Table],
) -> Iterator[dict[str, Any]]:
    """Embed the chunks and yield the row that `write(table, root=...)` returns for each, as they are done.

    `image_size` is 0 for a source of features. `labeller` is a run whose classifier labels the features in the actor;
    without it they are written.
    """
    import ray.data  # here and below: workers of other stages import this module's neighbours, and this takes a second

    pool = pool_of(resources, ray.cluster_resources(), asked=actors, chunks=len(chunks))
    with _whole_blocks():
        dataset = (
            ray.data.range(len(chunks), override_num_blocks=len(chunks))
            .map_batches(
                cast(Any, _read_chunk),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0.5,
                fn_kwargs={
                    "chunks": np.asarray(chunks),
                    "source": source,
                    "root": root,
                    "size": image_size,
                    "resize": embed.resize,
                    "max_pixels": embed.max_pixels,
                    "max_bytes": embed.max_bytes,
                },
            )
            .map_batches(
                _Embedder,
                batch_size=batch,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(
                    min_size=pool.least,
                    max_size=pool.most,
                    # Two threads take turns on a GPU: one prepares a batch while the other's is computed.
                    max_concurrent_calls_per_actor=2 if resources.device == "cuda" else 1,
                    enable_true_multi_threading=resources.device == "cuda",
                ),
                num_cpus=pool.cpus,
                num_gpus=resources.gpu_share or None,
                fn_constructor_kwargs={
                    "embed": embed.model_dump() if image_size else None,
                    "device": resources.device,
                    "sharers": pool.sharers,
                    "labeller": labeller,
                },
            )
            .map_batches(write, batch_size=None, batch_format="pyarrow", num_cpus=0.25, fn_kwargs={"root": root})
        )
        try:
            yield from dataset.iter_rows()
        except RayTaskError as error:
            raise _as_it_was(error) from error


def _as_it_was(error: RayTaskError) -> Exception:
    """The error of ours that ended a task, which Ray Data hands on as text only; any other as it came."""
    told = re.findall(r"^icce_ray\.[\w.]+Error: (.+)$", str(error), re.MULTILINE)
    return RunError(told[-1]) if told else error


@contextlib.contextmanager
def _whole_blocks() -> Iterator[None]:
    """Ray Data neither splits nor reports on blocks while a chunk must stay one."""
    import ray.data

    context = ray.data.DataContext.get_current()
    before = (context.target_max_block_size, context.enable_progress_bars)
    context.target_max_block_size, context.enable_progress_bars = None, False
    try:
        yield
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


def _read_chunk(
    batch: pa.Table, *, chunks: np.ndarray, source: SourceSpec, root: str, max_bytes: int, **decoding: Any
) -> pa.Table:
    """One chunk of the manifest with its pictures: chunk, chunk_rows, image_id, uri, key, reason, detail, pixels.

    Of a source of features it has them instead of the pixels.
    """
    if batch.num_rows != 1:
        raise RuntimeError(f"{batch.num_rows} chunks came as one block; chunks must stay apart")
    chunk = int(chunks[batch["id"][0].as_py()])
    rows = Store(root).storage.read_table(Store.part(ARTIFACTS["list"], chunk))
    table = rows.select(["image_id", "uri", "key"])
    table = table.add_column(0, "chunk_rows", pa.array([len(rows)] * len(rows), pa.int64()))
    table = table.add_column(0, "chunk", pa.array([chunk] * len(rows), pa.int64()))
    opened = open_source(source)
    if isinstance(opened, FeatureSource):
        nothing = pa.nulls(len(rows), pa.string())
        table = table.append_column("reason", nothing).append_column("detail", nothing)
        return table.append_column("features", list_column(opened.features(rows)))

    def pictures(span: Iterator[bytes | Reject]) -> list[tuple[bytes | None, str | None, str | None]]:
        return [_picture(data, **decoding) for data in span]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = itertools.chain.from_iterable(pool.map(pictures, opened.read_spans(rows, max_bytes=max_bytes)))
        pixels, reasons, details = zip(*read, strict=True)
    table = table.append_column("reason", pa.array(reasons, pa.string()))
    table = table.append_column("detail", pa.array(details, pa.string()))
    return table.append_column("pixels", pa.array(pixels, pa.binary(decoding["size"] ** 2 * 3)))


def _picture(data: bytes | Reject, **decoding: Any) -> tuple[bytes | None, str | None, str | None]:
    """Pixels, reason, detail: either the first or the others."""
    try:
        if isinstance(data, Reject):
            raise data
        return decode(data, **decoding).tobytes(), None, None
    except Reject as reject:
        return None, reject.reason, reject.detail


class _Embedder:
    """Actor: a batch of pictures to features, or through a run's classifier to labels. `embed` is None for features.

    Called by two threads at a time on a GPU, so a call changes nothing here.
    """

    def __init__(self, *, embed: dict[str, Any] | None, device: str, sharers: int, labeller: str | None) -> None:
        import torch  # here and below: the tasks of this module never need it, and importing it takes seconds

        from icce_ray.backbones import load_backbone
        from icce_ray.stages.labelling import Labeller

        torch.set_num_threads(threads_here(sharers))
        self.labeller = Labeller(labeller, device=device) if labeller else None
        self.backbone = None
        if embed is not None:
            settings = EmbedSettings.model_validate(embed)
            self.backbone = load_backbone(
                settings.backbone,
                features=settings.feature_kind,
                n_last_blocks=settings.n_last_blocks,
                image_size=settings.image_size,
                device=device,
                dtype=product_precision(settings.precision, device),
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        main, blocks = self._features(table)
        table = table.drop_columns([name for name in ("pixels", "features") if name in table.column_names])
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
        main = np.zeros((len(table), self.backbone.dim), np.float16)
        blocks = np.zeros((len(table), self.backbone.block_dim), np.float16)
        if len(good):
            features = self.backbone.embed(_pictures(table["pixels"].combine_chunks().take(pa.array(good))))
            with np.errstate(over="ignore"):
                main[good] = features.main
                if features.cls_blocks is not None:
                    blocks[good] = features.cls_blocks
        return main, blocks


def _pictures(pixels: pa.FixedSizeBinaryArray) -> np.ndarray:
    """uint8[n, S, S, 3] of a column of raw pictures, without a copy."""
    side = round((pixels.type.byte_width / 3) ** 0.5)
    buffer = pixels.buffers()[1]
    flat = np.frombuffer(buffer, np.uint8)[pixels.offset * pixels.type.byte_width :]
    return flat[: len(pixels) * pixels.type.byte_width].reshape(len(pixels), side, side, 3)


def _reject_bad_features(table: pa.Table, main: np.ndarray, blocks: np.ndarray) -> pa.Table:
    """Rows whose features have no direction become rejects, and zero, so that they pass on harmlessly."""
    reasons = table["reason"].to_pylist()
    details = table["detail"].to_pylist()
    finite = np.isfinite(main).all(1) & np.isfinite(blocks).all(1)
    for row in np.flatnonzero(~finite):
        reasons[row], details[row] = "nonfinite_feature", _NONFINITE
    zero = ~main.any(1)
    for row in np.flatnonzero(zero):
        if reasons[row] is None:
            reasons[row], details[row] = "zero_feature", _ZERO
    main[~finite] = 0
    blocks[~finite] = 0
    table = table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))
    return table.set_column(table.column_names.index("detail"), "detail", pa.array(details, pa.string()))
