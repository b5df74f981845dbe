"""A plan: what every stage of a run takes on given machines, with all that it assumes.

A stage is made of parts, each an amount of work over a rate of `rates.yaml`; where it streams, its parts run side by
side, but those on one resource wait for each other. Sizes and formulas are those of the code that does the work.
"""

from __future__ import annotations

import math

from icce_ray.backbones import CPU_SLICE
from icce_ray.core.consensus import graphs, mcla
from icce_ray.core.consensus.ensemble import HEADS_PER_ARRAY, IMAGES_PER_SHARD, MAX_VOTES
from icce_ray.core.layout import NEAREST, layout_bytes
from icce_ray.core.linear import grid_flops
from icce_ray.core.search import base_bytes, parts_needed, score_bytes, work_bytes
from icce_ray.planning.job import Bucket, Job, Machines, Part, Plan, StagePlan, in_turn, streamed
from icce_ray.planning.memory import heads_memory
from icce_ray.planning.rates import PlanError, Rates, checked
from icce_ray.settings import Settings
from icce_ray.stages.features import classifier_inputs

#: Bytes of a neighbour in the run (int64 image_id, float32 similarity), and of a label with its confidence.
NEIGHBOR_BYTES, LABEL_BYTES = 12, 8
#: GPUs of a node, which nobody is asked for: neighbours are written by 2 + 2 tasks a node.
NODE_GPUS = 8
#: Bytes of the consensus for each label of a head (labels and the copy without repeated rows, the incidence matrix and
#: its weighted copy), and of MCLA for each pair of clusters (indices both ways, and the partitioner's own graph).
LABEL_WORK_BYTES, GRAPH_BYTES = 40, 60
#: Widths up to which a backbone is taken to be as fast, by the operation, as DINOv2 small and base.
SMALL, BASE = 512, 896


def _list(job: Job) -> StagePlan:
    """One process asks for the keys."""
    keys = job.cpu("keys", job.images, "list", cores=1)
    return job.stage("list", keys, seconds=keys.seconds, storage=job.images * job.rate("manifest_bytes"))


def _embed(job: Job) -> StagePlan:
    """Download, decoding, forward pass and writing run beside each other."""
    settings, out = job.settings, job.images * job.row
    parts = (
        job.network(job.images * job.image_bytes, "network in"),
        job.cpu("decode", job.images, "decode"),
        _forward(job),
        *job.written(out),
    )
    device = 0.0
    if job.shape:
        # Weights come as float32, a GPU's products take them as bfloat16 then; two batches are on a GPU at a time.
        batch = settings.resources.embed_batch
        batch = 2 * batch if job.gpu else min(batch, CPU_SLICE)
        blocks = settings.embed.n_last_blocks > 1
        device = 4 * job.shape.parameters + job.shape.activation_bytes(job.side, batch, blocks=blocks)
    results = 4.0 * settings.embed.rows_per_shard * job.row  # of a shard: joined, chosen, packed, sent
    return job.stage(
        "embed",
        *parts,
        seconds=streamed(*parts),
        gpus=job.machines.gpus,
        storage=out,
        device_memory=device,
        host_memory=results,
    )


def _forward(job: Job) -> Part:
    """The backbone's part; `hog` runs on the CPU in any case."""
    if job.shape is None:
        return job.cpu("forward", job.images, "hog")
    width = job.shape.width
    rate = "forward_small" if width <= SMALL else "forward_base" if width <= BASE else "forward_large"
    return job.tensors("forward", {rate: job.images * job.shape.flops(job.side)})


def _sample(job: Job) -> StagePlan:
    """A random number for every image, then the files that hold the chosen ones are read whole."""
    if job.n == job.images:
        return job.stage("sample", seconds=0.0)
    share = 1.0 - math.exp(-job.settings.embed.rows_per_shard * job.n / job.images)  # of the files
    read, out = share * job.images * job.row, job.n * job.row
    draw = job.cpu("draw", job.images, "draw", cores=1)
    parts = (job.cpu("read", read, "parquet_read"), job.network(read, "network in"), *job.written(out))
    return job.stage(
        "sample", draw, *parts, seconds=draw.seconds + streamed(*parts), storage=out, host_memory=40.0 * job.n
    )


def _neighbors(job: Job) -> StagePlan:
    """n^2 D multiply-adds over all devices; every image is taken to have k_max neighbours."""
    n, rows, pairs = job.n, job.settings.neighbors.rows_per_shard, float(job.n) * job.k_max
    base = base_bytes(n, job.seen, job.settings.neighbors.search)
    work = work_bytes(job.seen, rows=rows, k_max=job.k_max, device=job.device)
    devices = job.machines.gpus or 1
    fitting = min(parts_needed(base, work, 1e9 * job.gpu.memory_gb if job.gpu else math.inf), devices)
    parts = int(job.settings.resources.neighbor_shards or fitting)
    copies = max(1, devices // parts)
    gpus = min(parts * copies, job.machines.gpus) or None
    scored = score_bytes(n, job.seen, pairs=pairs, rows=rows, device=job.device)
    out = pairs * NEIGHBOR_BYTES + n * job.names
    read = job.cpu("read", copies * n * job.row, "parquet_read", cores=parts * copies)
    stream = (
        job.tensors("search", {"search_matmul": 2.0 * n * n * job.seen * searched_share(job)}, gpus),
        job.tensors("score", {"search_rescore": scored}, gpus),
        *job.written(out, cores=2 + 2 * max(1, math.ceil(job.machines.gpus / NODE_GPUS))),
    )
    return job.stage(
        "neighbors",
        *(read, *stream),
        seconds=read.seconds + streamed(*stream),
        gpus=gpus or 0,
        storage=out,
        device_memory=base / parts + work,
        host_memory=3.0 * NEIGHBOR_BYTES * rows * job.k_max,
    )


def searched_share(job: Job) -> float:
    """Share of the images that a query is compared with: all, or the probed lists of `ivf`."""
    chosen = job.settings.neighbors
    if chosen.search != "ivf":
        return 1.0
    from icce_ray.search.faiss_index import PARTITION_ROWS, default_lists, default_probes  # FAISS itself

    lists = chosen.ivf_lists or default_lists(min(PARTITION_ROWS, job.n))
    return min(1.0, (chosen.ivf_probes or default_probes(lists)) / lists)


def _heads(job: Job) -> StagePlan:
    """Load, train with checkpoints beside it, label; of several workers each trains its share of the heads."""
    n, chosen, resources = job.n, job.settings.heads, job.settings.resources
    workers = max(1, min(resources.head_workers or job.machines.gpus or 1, chosen.heads))
    needs = heads_memory(job.settings, images=n, dim=job.seen, workers=workers, device=job.device)
    cost, steps, share = needs.cost, chosen.epochs * (n // needs.cost.batch), needs.heads
    load = _loading(job, workers)
    moved = {
        "heads_matmul": steps * cost.step_flops(),
        "heads_memory": steps * cost.step_bytes(job.device, chosen.precision),
    }
    train = job.tensors("train", moved, workers)
    label = job.tensors("label", {"heads_label": 2.0 * n * chosen.heads * cost.products}, workers)
    # Student, teacher and two moments of each parameter, float32, in the place of the checkpoint before.
    state, times = 4 * 4.0 * chosen.heads * cost.parameters, math.ceil(chosen.epochs / chosen.checkpoint_epochs)
    keep = (
        job.cpu("checkpoints", times * state, "checkpoint", cores=1),
        job.network(times * state, "network out", "upload of checkpoints"),
    )
    uneven = share * workers / chosen.heads if share < chosen.heads else 1.0  # the worker with most heads is waited for
    pairs, file = float(n) * job.k_max, 2.0 * NEIGHBOR_BYTES * job.settings.neighbors.rows_per_shard * job.k_max
    return job.stage(
        "heads",
        *(*load, train, label, *keep),
        # One is written while the training goes on to the next, which waits for it; none goes on beside the last.
        seconds=in_turn(*load)
        + max(uneven * train.seconds, in_turn(*keep))
        + in_turn(*keep) / times
        + uneven * label.seconds,
        gpus=workers if job.gpu else 0,
        storage=4.0 * chosen.heads * cost.parameters + n * (4.0 * chosen.heads + job.names),
        device_memory=needs.total(pairs),
        host_memory=needs.inputs(pairs) + file,
    )


def _loading(job: Job, workers: int) -> tuple[Part, ...]:
    """Features and neighbour lists into the memory of every worker, file by file: download, read, number ids."""
    pairs = workers * float(job.n) * job.k_max
    size = workers * job.n * job.row + 8.0 * pairs
    return (
        job.cpu("load", size, "parquet_read", cores=workers),
        job.cpu("number", pairs, "row_numbers", cores=workers),
        job.network(size, "network in"),
    )


def _consensus(job: Job) -> StagePlan:
    """Each method that serves the size, then votes; no two rows of labels are taken as equal."""
    n, heads, wanted = float(job.n), job.settings.heads.heads, job.settings.consensus.methods
    labels, blocks = n * heads, math.ceil(heads / HEADS_PER_ARRAY)
    pairs = min(float(heads * job.clusters) ** 2, mcla.MAX_EDGES)
    work = {  # at two tolerances but for HGPA
        "mcla": (labels * heads, blocks * (blocks + 1) // 2, math.inf),
        "cspa": (2 * n * n, 1, graphs.MAX_CSPA_ROWS * heads),
        "hgpa": (labels * job.clusters, 1, graphs.MAX_HGPA_PINS),
        "hbgf": (2 * labels, 1, graphs.MAX_HBGF_EDGES),
    }
    methods = [[job.cpu(name, work[name][0], name, work[name][1])] for name in wanted if labels <= work[name][2]]
    if not methods:
        raise PlanError(
            f"none of consensus.methods = {', '.join(wanted)} serves {job.n:,} images of {heads} heads; add mcla, or "
            "set heads.max_images lower"
        )
    if "mcla" in wanted:
        next(parts for parts in methods if parts[0].name == "mcla").append(
            job.cpu("mcla's cuts", 2 * pairs, "cut", cores=2)
        )
    votes = job.cpu("votes", MAX_VOTES * labels, "votes", cores=math.ceil(n / IMAGES_PER_SHARD))
    together = sum(part.cpu_seconds for parts in methods for part in parts) / job.machines.cpus
    # Two arrays of all images in uint16, as they came and side by side.
    sizes = (LABEL_WORK_BYTES * min(n, IMAGES_PER_SHARD) * heads, 8.0 * HEADS_PER_ARRAY * n, GRAPH_BYTES * pairs)
    return job.stage(
        "consensus",
        *(part for parts in methods for part in parts),
        votes,
        seconds=max(together, *(in_turn(*parts) for parts in methods)) + votes.seconds,
        storage=n * (LABEL_BYTES + job.names),
        host_memory=max(sizes),
    )


def _classifier(job: Job) -> StagePlan:
    """The whole grid on one device."""
    n, chosen = job.n, job.settings.classifier
    inputs = classifier_inputs(job.layout, job.dim, job.block_dim).values()
    widths = [sum(stop - start for start, stop in parts) for parts in inputs]
    rates, batch = len(chosen.learning_rates), min(chosen.batch_size, n)
    flops = grid_flops(batch=batch, widths=widths, rates=rates, n_classes=job.clusters)
    load = job.cpu("load", n * job.row, "parquet_read", cores=1)
    train = job.tensors("train", {"linear": chosen.iterations * flops}, gpus=1)
    features = 2.0 * n * (job.dim + job.block_dim)
    weights = 4.0 * rates * job.clusters * sum(width + 1 for width in widths)
    return job.stage(
        "classifier",
        *(load, train),
        seconds=in_turn(load, train),
        gpus=min(1, job.machines.gpus),
        storage=4.0 * job.clusters * max(widths),
        # The features, and the training rows among them; weights and their velocity; logits and probabilities.
        device_memory=2 * features + 2 * weights + 4.0 * 2 * batch * rates * job.clusters,
        host_memory=2 * features,
    )


def _predict(job: Job) -> StagePlan:
    """Tasks on CPUs read shards, label them and write."""
    wide, rows = job.dim + job.block_dim, job.images * 1.0
    size, shard = rows * (LABEL_BYTES + job.names), job.settings.embed.rows_per_shard
    of_tasks = (
        job.cpu("read", rows * job.row, "parquet_read"),
        job.cpu("label", 2.0 * rows * wide * job.clusters, "label"),
        job.cpu("write", size, "parquet_write"),
    )
    download = job.network(rows * job.row, "network in")
    return job.stage(
        "predict",
        *(*of_tasks, download),
        seconds=max(in_turn(*of_tasks), download.seconds),  # a task does one after the other
        storage=size,
        host_memory=3.0 * shard * job.row + 4.0 * shard * (wide + 2 * job.clusters),
    )


def _inspect(job: Job) -> StagePlan:
    """Reads what is known of every image beside its features, and shards of features with images of the map."""
    mapped = min(job.images, job.settings.inspect.map_images)
    features = min(job.images, mapped * job.settings.embed.rows_per_shard) * job.row
    size = job.images * (LABEL_BYTES + job.names) + 12.0 * job.n * job.k_max + features
    read, download = job.cpu("read", size, "parquet_read"), job.network(size, "network in")
    storage, memory = mapped * (LABEL_BYTES + job.names + 12.0 * NEAREST), layout_bytes(mapped, job.seen)
    seconds = streamed(read, download)
    return job.stage("inspect", read, download, seconds=seconds, storage=storage, host_memory=memory)


STAGES = {
    "list": _list,
    "embed": _embed,
    "sample": _sample,
    "neighbors": _neighbors,
    "heads": _heads,
    "consensus": _consensus,
    "classifier": _classifier,
    "predict": _predict,
    "inspect": _inspect,
}
_REMEDIES = {
    "heads": "set neighbors.k_max lower (the lists take k_max int32 an image), or heads.max_images",
    "embed": "set resources.embed_batch lower",
    "classifier": "set heads.max_images lower",
}


def make_plan(
    settings: Settings, rates: Rates, machines: dict[str, object], *, images: int, image_bytes: float
) -> Plan:
    """Plan a run of `settings` over `images` images of `image_bytes` each; `machines` are the fields of `Machines`.

    Raises PlanError for a value out of range, a model or a GPU without rates, and settings that no run could have.
    """
    bucket = checked(Bucket, {"images": images, "image_bytes": image_bytes})
    job = Job(settings, checked(Machines, machines), rates, bucket)
    start = job.fixed("start").seconds
    stages = tuple(stage(job) for stage in STAGES.values())
    seconds = start + sum(stage.seconds for stage in stages)
    given = job.machines
    prices = (given.gpu_price, given.cpu_price)
    price = None if prices == (None, None) else given.gpus * (prices[0] or 0.0) + given.cpus * (prices[1] or 0.0)
    names = ("storage", "gpu_seconds", "cpu_seconds")
    total: dict[str, float | None] = {name: sum(getattr(stage, name) for stage in stages) for name in names}
    return Plan(
        images=images,
        sample=job.n,
        model=settings.embed.backbones[0],
        dim=job.dim,
        machines=job.machines,
        start_seconds=start,
        stages=stages,
        total=total | {"seconds": seconds, "cost": None if price is None else price * seconds / 3600},
        rates=job.used,
        assumptions=tuple(_assumptions(job)),
        warnings=tuple(_warnings(job, stages)),
    )


def _warnings(job: Job, stages: tuple[StagePlan, ...]) -> list[str]:
    memory = job.gpu.memory_gb if job.gpu else math.inf
    return [
        f"{one.stage}: {one.device_memory / 1e9:,.0f} GB on each GPU do not fit into the {memory:,.0f} GB of "
        f"{job.machines.gpu_type}; {_REMEDIES.get(one.stage, 'use more or larger GPUs, or set heads.max_images lower')}"
        for one in stages
        if one.device_memory > memory * 1e9
    ]


def _assumptions(job: Job) -> list[str]:
    """What the figures rest on beside the rates."""
    machines, neighbors = job.machines, job.settings.neighbors
    lines = {
        f"images of {job.image_bytes / 1e3:,.0f} kB on average, decoded as fast as the 500-pixel JPEGs of the "
        "measurement; none is rejected": True,
        f"{machines.cpus:,} cores, each as fast as one of the machine the rates were measured on": True,
        f"{machines.network_gbit:g} Gbit/s each way between the store and all machines together (--network-gbit), and "
        "a store that answers as many requests as that takes": True,
        f"every image has k_max = {job.k_max:,} neighbours, so lists, their storage and memory are upper bounds": True,
        "no two images have the same labels under all heads, and the heads vote 20 times: upper bounds": True,
        "stages follow each other; GPU hours are of GPUs held by a stage, busy or not, CPU hours of busy cores": True,
        f"neighbors, heads, consensus and classifier see {job.n:,} images (heads.max_images), whatever the bucket "
        "holds": job.n < job.images,
        "heads are shared out over the GPUs; what they exchange is not counted": machines.gpus > 1,
        "a checkpoint is written beside the training; its way to the CPU, and that of features and lists to the GPU, "
        "are not counted": machines.gpus > 0,
        "ivf: the probed share of the exact search's work, at its speed; making the lists is not counted": (
            neighbors.search == "ivf"
        ),
        "ground-truth neighbours are planned as if they were searched": neighbors.mode == "ground_truth",
        "cost: all GPUs and cores from beginning to end, busy or not; storage and requests are not counted": (
            machines.gpu_price is not None or machines.cpu_price is not None
        ),
    }
    return [line for line, holds in lines.items() if holds]
