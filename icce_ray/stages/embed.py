"""Stage `embed`: images to frozen features in Parquet shards, rejects beside them (paper 3.1).

The stream from images to rows (Ray Data) is that of `predict` too: read, decode, backbone, rows, shards. Chunk c is
`manifest/part-c.parquet`. Tasks split it into pieces, others decode these in blocks of some hundred images, actors take
block after block through the backbone, and tasks write the blocks of a chunk as one shard. Blocks keep their order, and
all chunks but the last have as many, so Ray Data hands out exactly those of one chunk together. So what is written has
a deterministic name and content: a killed run repeats exactly the chunks whose file is not there. And memory does not
grow with a chunk but for its results. Only a row per file reaches the driver.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import ray
from ray.exceptions import RayTaskError

from icce_ray.backbones import BackboneInfo, describe_backbone
from icce_ray.backbones.several import describe_several
from icce_ray.io.sources import FeatureSource, Source, found_source, open_source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, ResourceSettings, Settings
from icce_ray.stages import StageResult
from icce_ray.stages.chunks import Embedder, write
from icce_ray.stages.cluster import Resources, others_cluster, write_shards
from icce_ray.stages.listing import Listing
from icce_ray.stages.reading import announced, read, split
from icce_ray.stages.spans import of_source, spans_of
from icce_ray.stages.stream import Stream, TaskError
from icce_ray.store import Marker, RejectBudgetError, RunError, Store
from icce_ray.store.artifacts import FEATURES, REJECTS
from icce_ray.store.views import space_names

MAX_CPU_ACTORS = 4  # of a node; each holds the weights

#: Chunks to reckon with while they are being listed.
MANY_CHUNKS = 10_000

#: Bytes of a process beside its blocks: the interpreter and its libraries, and what threads have read.
PROCESS_BYTES = 256 << 20


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress, listing: Listing | None = None
) -> StageResult:
    """Embed every chunk of the manifest whose shard is not there yet, as `listing` gives them where it goes on.

    Returns the files and a summary.
    """
    spec = listing.source.spec if listing else found_source(settings.source, store.require("list").summary)
    source = open_source(spec)
    info = described_input(source, settings.embed)
    images = Stream(
        source=source,
        root=store.root,
        embed=settings.embed,
        info=info,
        accepted=FEATURES,
        rejected=REJECTS,
        batch=settings.resources.embed_batch,
    )
    files, summary = run_stream(images, settings.resources, resources, progress, listing)
    layout = {name: list(span) for name, span in info.layout.items()}
    spaces = {name: list(span) for name, span in spans_of(info).items()}
    figures = {"dim": info.dim, "layout": layout, "block_dim": info.block_dim}
    return files, summary | figures | ({"spaces": spaces} if spaces else {})


def described_input(source: Source, embed: EmbedSettings) -> BackboneInfo:
    """What the chosen backbones give, without their weights, or what a source of features holds.

    Raises BackboneError if a backbone cannot be used.
    """
    if isinstance(source, FeatureSource):
        return of_source(source)
    models = [
        describe_backbone(
            name,
            embed.features,
            n_last_blocks=embed.n_last_blocks,
            image_size=embed.image_size,
            resize=embed.resize,
        )
        for name in embed.backbones
    ]
    spaces = space_names(embed.backbones)
    return describe_several(dict(zip(spaces, models, strict=True))) if len(models) > 1 else models[0]


def check_enough(store: Store, clusters: int) -> None:
    """Raise RunError if the accepted images cannot form the clusters."""
    summary = store.require("embed").summary
    if summary["ok"] < clusters:
        raise RunError(
            f"clusters = {clusters}, but only {summary['ok']} of {summary['images']} images could be embedded "
            f"(rejected: {summary['rejected_by_reason']}; `detail` in {store.storage.uri(REJECTS.path)} says "
            "what helps); fix those, give more images, or ask for fewer clusters"
        )


def check_budget(marker: Marker | None, budget: float) -> None:
    """Raise RejectBudgetError if more inputs were rejected than allowed, naming them."""
    if marker is None or not marker.summary.get("rejected"):
        return
    summary = marker.summary
    share = summary["rejected"] / summary["images"]
    if share > budget:
        raise RejectBudgetError(
            f"{summary['rejected']} of {summary['images']} inputs ({share:.1%}) were rejected, the budget is "
            f"{budget:.1%}: {summary['rejected_by_reason']}. Every stage asked for is complete for the others. "
            "Fix the source, or accept it by `icce run` with --set embed.reject_budget=SHARE"
        )


def run_stream(
    stream: Stream,
    limits: ResourceSettings,
    resources: Resources,
    progress: Progress,
    listing: Listing | None = None,
) -> StageResult:
    """Write the shards of every chunk of the manifest that are not there yet; on CPUs where a GPU is of no use.

    Returns the files, those of earlier attempts included, and the counts. Raises RunError if an input is missing or
    there twice, and if no node has the memory for a shard.
    """
    store, resources = Store(stream.root), resources if stream.on_gpu else replace(resources, device="cpu")
    counts = None if listing else [info.rows or 0 for info in store.require("list").files]
    rows = max(counts) if counts else stream.embed.rows_per_shard

    with contextlib.ExitStack() as ends:

        def write(missing: list[int]) -> Iterable[list[FileInfo]]:
            if listing is None:
                return _written(stream, missing, rows, limits, resources) if missing else ()
            written = listing.checked(_written(stream, listing, rows, limits, resources))
            return ends.enter_context(contextlib.closing(written))

        files = write_shards(store, stream.accepted, counts, write, progress, stream.rejected)
    images = sum(info.rows or 0 for info in store.require("list").files)
    reasons, first = _count_rejects(store, [info.path for info in stream.rejected.files(files)])
    summary = {
        "images": images,
        "ok": sum(info.rows or 0 for info in stream.accepted.files(files)),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(reasons),
        "first_rejects": first,
    }
    if summary["ok"] + summary["rejected"] != summary["images"]:
        raise RunError(
            f"{summary['images']} inputs, but {summary['ok']} ok and {summary['rejected']} rejected: {store.root} has "
            f"shards of other inputs; {store.remedy(stream.accepted.path)}"
        )
    return files, summary


def _written(
    stream: Stream, chunks: list[int] | Listing, rows: int, limits: ResourceSettings, resources: Resources
) -> Iterator[list[FileInfo]]:
    """The files of chunks of so many rows (the last may have fewer), as `chunks.write` has written them."""
    count = MANY_CHUNKS if isinstance(chunks, Listing) else len(chunks)
    pool = pool_of(resources, ray.cluster_resources(), asked=limits.embed_actors, chunks=count)
    needs = needs_of(stream, rows)
    check_memory(needs, pool, rows)
    dataset = _dataset(stream, chunks, rows, pool, needs, resources)
    try:
        for row in dataset.iter_rows():
            counts = {name: int(row[name]) for name in ("rows", "bytes")}
            yield [FileInfo(path=row["path"], sha256=row["sha256"], **counts)]
    except RayTaskError as error:
        if isinstance(error.cause, TaskError):
            raise RunError(error.cause.message) from error
        raise


def _dataset(
    stream: Stream, chunks: list[int] | Listing, rows: int, pool: Pool, needs: Needs, resources: Resources
) -> ray.data.Dataset:
    """The stream of the chunks, of a row per file. Each task yields rows that hold a whole block."""
    import ray.data  # here: workers of other stages import this module's neighbours, and this takes a second

    gpu = resources.device == "cuda"
    arrow: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    task: dict[str, Any] = arrow | {"fn_kwargs": {"stream": stream}}
    known = {"chunks": chunks.known() if isinstance(chunks, Listing) else chunks}
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # a row goes on at once, alone
    context.execution_no_progress_timeout_s = -1  # listing may pause; stores have limits of their own
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    with ray.data.DataContext.current(context):
        start = ray.data.from_items([0])  # not by a task, for which there might be no whole CPU
        numbers = start.map_batches(cast(Any, announced), num_cpus=0, fn_kwargs=known, **arrow)
        pieces = numbers.map_batches(cast(Any, split), batch_size=1, num_cpus=0.25, **task)
        blocks = pieces.map_batches(cast(Any, read), batch_size=1, num_cpus=0.5, memory=needs.reader, **task)
        results = blocks.map_batches(
            Embedder,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                # Two threads take turns on a GPU: one prepares a batch while the other's is computed.
                max_concurrent_calls_per_actor=2 if gpu else 1,
                enable_true_multi_threading=gpu,
            ),
            num_cpus=pool.cpus,
            num_gpus=resources.gpu_share or None,
            memory=needs.actor,
            fn_constructor_kwargs={"stream": stream, "device": resources.device, "sharers": pool.sharers},
            **arrow,
        )
        together = -(-rows // stream.block_rows)  # blocks of a chunk
        return results.map_batches(cast(Any, write), batch_size=together, num_cpus=0.25, memory=needs.writer, **task)


class Needs(NamedTuple):
    """Bytes that are declared to Ray of a task that reads, an actor beside its backbone, and a task that writes."""

    reader: int
    actor: int
    writer: int


def needs_of(stream: Stream, rows: int) -> Needs:
    """Bytes for a chunk of so many rows."""
    block = min(stream.block_rows, rows) * stream.input_bytes
    whole = rows * stream.input_bytes if stream.precomputed else 0  # features of a piece come at once
    return Needs(
        reader=PROCESS_BYTES + whole + 3 * block,  # as bytes, as a column, on its way
        actor=PROCESS_BYTES + 2 * 2 * block,  # of two calls: on its way, and what is good of it
        writer=PROCESS_BYTES + 4 * rows * 2 * (stream.info.dim + stream.info.block_dim),  # joined, chosen, packed, sent
    )


def check_memory(needs: Needs, pool: Pool, rows: int) -> None:
    """Raise RunError if no node has room for its actors and one task: Ray would wait for it, and say nothing."""
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    actors, task = pool.sharers * needs.actor, max(needs.reader, needs.writer)
    if actors + task > most:
        raise RunError(
            f"shards of {rows} rows need {task / 1e9:.1f} GB of memory for each task beside {pool.sharers} actors of "
            f"{needs.actor / 1e9:.1f} GB, but the largest node gives {most / 1e9:.1f} GB to all; set a lower "
            "embed.rows_per_shard (with another --out), resources.embed_actors or resources.embed_batch, or use nodes "
            "with more memory"
        )


def _count_rejects(store: Store, paths: list[str], most: int = 20) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Rejects by reason, and the first few of them by image_id."""
    reasons: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for path in paths:
        table = store.storage.read_table(path)
        reasons.update(table["reason"].to_pylist())
        if len(first) < most:
            first += table.slice(0, most - len(first)).to_pylist()
    return reasons, first


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
