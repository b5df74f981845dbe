"""The stream from images to rows, one path for `embed` and `predict`: read, decode, backbone, rows, shards (Ray Data).

Chunk c is `manifest/part-c.parquet`. Decoding runs as tasks, the backbone in actors, writing as tasks again, and the
rows of a chunk stay in one block all the way (small chunks may share one), so that what is written has a deterministic
name and content: a killed run repeats exactly the chunks whose file is not there. Only a row of counts per chunk
reaches the driver.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from ray.exceptions import RayTaskError, UserCodeException

from icce_ray.core.recipe import product_precision
from icce_ray.io.decode import Reject, decode
from icce_ray.io.sources import FeatureSource, Source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, ResourceSettings
from icce_ray.stages.cluster import Resources, others_cluster, threads_here
from icce_ray.stages.features import list_column, matrix
from icce_ray.stages.shards import count_rejects, described, files_of, write_chunk
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


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What every task and actor of one pass over the images has to know.

    Attributes:
        source: of the images, as it was listed.
        root: of the run or prediction that holds the manifest and gets the shards.
        embed: how images are read and embedded.
        image_size: side of what the backbone takes; 0 for a source of features, which needs no backbone.
        accepted: artifact of the rows with a result.
        rejected: artifact of the rows with a reason.
        classifier: root of the run that labels the features; None writes the features themselves.
    """

    source: Source
    root: str
    embed: EmbedSettings
    image_size: int
    accepted: str
    rejected: str
    classifier: str | None = None


class TaskError(RunError, UserCodeException):
    """An error of a task whose message the user should see, as Ray Data passes it on to the driver."""


class Pool(NamedTuple):
    """Actors of the backbone: how many at least and at most, the CPUs each holds, how many share a node."""

    least: int
    most: int
    cpus: float
    sharers: int


def pool_of(resources: Resources, cluster: Mapping[str, float], *, asked: int | None, chunks: int) -> Pool:
    """One actor per GPU, else a few on every node; on a cluster that may grow as many as fit, unless `asked`.

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


def run(
    stream: Stream, limits: ResourceSettings, resources: Resources, progress: Progress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Write the shards of every chunk of the manifest that are not there yet.

    Returns the files, those of earlier attempts included, and the counts. Raises RunError if an input is missing or
    there twice.
    """
    store = Store(stream.root)
    counts = [info.rows or 0 for info in store.require("list").files]
    done = store.parts(stream.accepted, of=len(counts))
    finished = sum(counts[chunk] for chunk in done)
    progress.begin(sum(counts), done=finished, unit="images")
    missing = [chunk for chunk in range(len(counts)) if chunk not in done]
    files: list[FileInfo] = []
    rejected = 0
    for row in _written(stream, missing, limits, resources) if missing else ():
        files += files_of(row)
        rejected += row["rejected"]
        finished += row["ok"] + row["rejected"]
        progress.update(finished, rejected=rejected)
    files += described(store, [stream.accepted, stream.rejected], {info.path for info in files})
    reasons, first = count_rejects(store, [info.path for info in files if info.path.startswith(stream.rejected)])
    summary = {
        "images": sum(counts),
        "ok": sum(info.rows or 0 for info in files if info.path.startswith(stream.accepted)),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(reasons),
        "first_rejects": first,
    }
    if summary["ok"] + summary["rejected"] != summary["images"]:
        raise RunError(
            f"{summary['images']} inputs, but {summary['ok']} ok and {summary['rejected']} rejected: {store.root} has "
            f"shards of other inputs; {store.remedy(stream.accepted)}"
        )
    return files, summary


def _written(
    stream: Stream, chunks: Sequence[int], limits: ResourceSettings, resources: Resources
) -> Iterator[dict[str, Any]]:
    """The row that `write_chunk` returns for each chunk, as they are done."""
    import ray.data  # here and below: workers of other stages import this module's neighbours, and this takes a second

    gpu = resources.device == "cuda"
    pool = pool_of(resources, ray.cluster_resources(), asked=limits.embed_actors, chunks=len(chunks))
    with _ray_data_context():
        dataset = (
            ray.data.range(len(chunks), override_num_blocks=len(chunks))
            .map_batches(
                cast(Any, _read),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0.5,
                fn_kwargs={"chunks": np.asarray(chunks), "stream": stream},
            )
            .map_batches(
                _Embedder,
                batch_size=limits.embed_batch,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(
                    min_size=pool.least,
                    max_size=pool.most,
                    # Two threads take turns on a GPU: one prepares a batch while the other's is computed.
                    max_concurrent_calls_per_actor=2 if gpu else 1,
                    enable_true_multi_threading=gpu,
                ),
                num_cpus=pool.cpus,
                num_gpus=resources.gpu_share or None,
                fn_constructor_kwargs={"stream": stream, "device": resources.device, "sharers": pool.sharers},
            )
            .map_batches(
                cast(Any, _write),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0.25,
                fn_kwargs={"stream": stream},
            )
        )
        try:
            yield from dataset.iter_rows()
        except RayTaskError as error:
            if isinstance(error.cause, TaskError):
                raise RunError(str(error.cause)) from error
            raise


@contextlib.contextmanager
def _ray_data_context() -> Iterator[None]:
    """Ray Data neither splits blocks, while a chunk must stay one, nor shows bars, nor hides our errors in its own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    changes = {
        "target_max_block_size": None,
        "enable_progress_bars": False,
        "raise_original_map_exception": True,
    }
    before = {name: getattr(context, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


@contextlib.contextmanager
def _errors_for_the_driver() -> Iterator[None]:
    """Errors of this package, which say what to do, as TaskError; any other as a fault of the program."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.startswith("icce_ray.")
        raise TaskError(str(error)) if ours else UserCodeException(f"{type(error).__name__}: {error}") from error


def _read(batch: pa.Table, *, chunks: np.ndarray, stream: Stream) -> pa.Table:
    """Task: one chunk of the manifest with its pictures.

    Columns chunk, chunk_rows, image_id, uri, key, reason, detail and pixels, or features of a source that has them.
    """
    with _errors_for_the_driver():
        if batch.num_rows != 1:
            raise RuntimeError(f"{batch.num_rows} chunks came as one block; chunks must stay apart")
        chunk = int(chunks[batch["id"][0].as_py()])
        rows = Store(stream.root).storage.read_table(Store.part(ARTIFACTS["list"], chunk))
        if isinstance(stream.source, FeatureSource):
            reasons = details = pa.nulls(len(rows), pa.string())
            name, values = "features", list_column(stream.source.features(rows))
        else:
            pixels, reasons, details = zip(*_pictures(rows, stream), strict=True)
            name, values = "pixels", pa.array(pixels, pa.binary(stream.image_size**2 * 3))
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
            pixels = decode(data, size=stream.image_size, resize=embed.resize, max_pixels=embed.max_pixels)
            return pixels.tobytes(), None, None
        except Reject as reject:
            return None, reject.reason, reject.detail

    def pictures(span: Iterator[bytes | Reject]) -> list[Picture]:
        return [picture(data) for data in span]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        spans = stream.source.read_spans(rows, max_bytes=embed.max_bytes)
        yield from itertools.chain.from_iterable(pool.map(pictures, spans))


class _Embedder:
    """Actor: a batch of pictures to features, and through a run's classifier to labels where the stream has one.

    Called by two threads at a time on a GPU, so a call changes nothing here.
    """

    def __init__(self, *, stream: Stream, device: str, sharers: int) -> None:
        import torch  # here and below: the tasks of this module never need it, and importing it takes seconds

        from icce_ray.backbones import load_backbone
        from icce_ray.stages.labelling import Labeller

        torch.set_num_threads(threads_here(sharers))
        self.labeller = Labeller(stream.classifier, device=device) if stream.classifier else None
        self.backbone = None
        if stream.image_size:
            self.backbone = load_backbone(
                stream.embed.backbone,
                features=stream.embed.feature_kind,
                n_last_blocks=stream.embed.n_last_blocks,
                image_size=stream.embed.image_size,
                device=device,
                dtype=product_precision(stream.embed.precision, device),
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        with _errors_for_the_driver():
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
        main = np.zeros((len(table), self.backbone.dim), np.float16)
        blocks = np.zeros((len(table), self.backbone.block_dim), np.float16)
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


def _write(table: pa.Table, *, stream: Stream) -> pa.Table:
    """Task: the shards of the chunks of one block; their rows of counts and files for the driver."""
    with _errors_for_the_driver():
        return write_chunk(table, root=stream.root, accepted=stream.accepted, rejected=stream.rejected)
