"""The stages that see every image: list, embed, sample, predict. Linear in N."""

from __future__ import annotations

from icce_ray.planning import operations
from icce_ray.planning.job import Job, Speeds
from icce_ray.planning.parts import Part, Parts, StagePlan, in_turn, streamed
from icce_ray.planning.rates import DeviceRate

#: Rows of a shard of `stages.sample`, and bytes of a label with its confidence (`stages.predict`).
SAMPLE_ROWS, LABEL_BYTES = 8192, 8
#: Images of a forward pass on a CPU (`backbones.dinov2`).
CPU_SLICE = 8
#: Widths up to which a backbone is taken to be as fast, by the operation, as DINOv2 small and base.
SMALL, BASE = 512, 896


def row_bytes(job: Job, speeds: Speeds) -> float:
    """Bytes of one image in the feature shards: float16 features (taken as incompressible) and the image's names."""
    return 2.0 * (job.dim + job.block_dim) + speeds.host("id_bytes")


def listing(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `list`: one process asks for the keys."""
    make = Parts(speeds)
    keys = make.cpu("keys", job.images / speeds.host("list"), "list", cores=1)
    begin = make.begin("list")
    storage = job.images * speeds.host("manifest_bytes")
    return StagePlan(stage="list", parts=(keys, begin), seconds=in_turn(keys, begin), storage=storage)


def embed(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `embed`: download, decoding, forward pass and writing run beside each other."""
    make, size = Parts(speeds), row_bytes(job, speeds)
    out = job.images * size
    parts = (
        make.network("download", job.images * job.image_bytes, "network in"),
        make.cpu("decode", job.images / speeds.host("decode"), "decode"),
        forward(job, speeds),
        make.cpu("write", out / speeds.host("parquet_write"), "parquet_write"),
        make.network("upload", out, "network out"),
    )
    begin = make.begin("embed")
    settings = job.settings.embed
    device = 0.0
    if job.transformer:
        # Weights come as float32, a GPU's products take them as bfloat16 then; two batches are on a GPU at a time.
        batch = job.settings.resources.embed_batch
        batch = min(batch, CPU_SLICE) if speeds.device == "cpu" else 2 * batch
        blocks = settings.n_last_blocks > 1
        device = 4 * job.transformer.parameters + job.transformer.activation_bytes(job.side, batch, blocks=blocks)
    return StagePlan(
        stage="embed",
        parts=(*parts, begin),
        seconds=streamed(*parts) + begin.seconds,
        gpus_held=speeds.machines.gpus,
        storage=out,
        device_memory=device,
        host_memory=2.0 * settings.rows_per_shard * 3 * job.side**2,  # a chunk's pictures, and their Arrow table
    )


def forward(job: Job, speeds: Speeds) -> Part:
    """The backbone's part; `hog` runs on the CPU in any case."""
    make = Parts(speeds)
    if job.transformer is None:
        return make.cpu("forward", job.images / speeds.host("hog"), "hog")
    width = job.transformer.width
    name: DeviceRate = "forward_small" if width <= SMALL else "forward_base" if width <= BASE else "forward_large"
    flops = job.images * job.transformer.flops(job.side)
    return make.tensors("forward", flops / speeds.unit(name), name)


def sample(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `sample`: a random number for every image, then the files that hold the chosen ones are read whole."""
    make, begin = Parts(speeds), Parts(speeds).begin("sample")
    if not job.sampled:
        return StagePlan(stage="sample", parts=(begin,), seconds=begin.seconds)
    size = row_bytes(job, speeds)
    share = operations.share_of_files_read(job.images, job.sample, job.settings.embed.rows_per_shard)
    read, out = share * job.images * size, job.sample * size
    draw = make.cpu("draw", job.images / speeds.host("draw"), "draw", cores=1)
    parts = (
        make.cpu("read", read / speeds.host("parquet_read"), "parquet_read"),
        make.network("download", read, "network in"),
        make.cpu("write", out / speeds.host("parquet_write"), "parquet_write"),
        make.network("upload", out, "network out"),
    )
    return StagePlan(
        stage="sample",
        parts=(draw, *parts, begin),
        seconds=in_turn(draw, begin) + streamed(*parts),
        storage=out,
        # A generator's block of numbers and the keys kept; a shard while it is put together.
        host_memory=max(8.0 * 2**24 + 40.0 * job.sample, 3.0 * SAMPLE_ROWS * size),
    )


def predict(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `predict`: tasks read shards, label them and write; with GPUs, one task a GPU."""
    make, machines, size = Parts(speeds), speeds.machines, row_bytes(job, speeds)
    workers = machines.gpus or machines.cpus
    read, out = job.images * size, job.images * (LABEL_BYTES + speeds.host("id_bytes"))
    flops = 2.0 * job.images * (job.dim + job.block_dim) * job.settings.clusters
    of_workers = (
        make.cpu("read", read / speeds.host("parquet_read"), "parquet_read", cores=workers),
        make.tensors("label", flops / speeds.unit("label"), "label"),
        make.cpu("write", out / speeds.host("parquet_write"), "parquet_write", cores=workers),
    )
    network, begin = make.network("download", read, "network in"), make.begin("predict")
    return StagePlan(
        stage="predict",
        parts=(*of_workers, network, begin),
        seconds=max(in_turn(*of_workers), network.seconds) + begin.seconds,  # a task does one after the other
        gpus_held=machines.gpus,
        storage=out,
        device_memory=4.0 * job.settings.embed.rows_per_shard * (job.dim + job.block_dim + 2 * job.settings.clusters),
        host_memory=3.0 * job.settings.embed.rows_per_shard * size,
    )
