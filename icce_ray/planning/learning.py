"""The stages that see the sample: neighbors, heads, consensus, classifier. A constant above `heads.max_images`."""

from __future__ import annotations

import itertools
import math

from icce_ray.planning import operations
from icce_ray.planning.every_image import LABEL_BYTES, row_bytes
from icce_ray.planning.job import Job, Speeds
from icce_ray.planning.parts import Part, Parts, StagePlan, in_turn, streamed
from icce_ray.planning.rates import PlanError

#: A neighbour in the run: int64 image_id and float32 similarity; in training: int32.
NEIGHBOR_BYTES, TRAINING_NEIGHBOR_BYTES = 12, 4
#: GPUs of a node, which is said nowhere: `stages.neighbors` writes 2 + 2 blocks of queries a node at a time.
NODE_GPUS = 8
#: Heads an array, images a shard (`stages.ensemble`): a task counts the pairs of two arrays, or votes on a shard.
HEADS_PER_ARRAY, IMAGES_PER_SHARD = 10, 250_000
#: Images of one set of inverted lists (`stages.neighbors.index`).
PARTITION_ROWS = 2**17
#: Bytes of the consensus for each label of a head: the labels and the copy without repeated rows (int32), the incidence
#: matrix and its weighted copy (float64 and an index each).
LABEL_WORK_BYTES = 40
#: Bytes of MCLA for each pair of clusters: indices both ways as they are put together, and the partitioner's own graph.
GRAPH_BYTES = 60


def neighbors(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `neighbors`: n^2 D multiply-adds over all shards; every image is taken to have k_max neighbours."""
    make, machines, n = Parts(speeds), speeds.machines, job.sample
    chosen = job.settings.neighbors
    shards = job.settings.resources.neighbor_shards or machines.gpus or 1
    size, pairs = row_bytes(job, speeds), float(n) * job.k_max
    products = 2.0 * n * n * job.dim * searched_share(job)
    writers = 2 + 2 * max(1, math.ceil(machines.gpus / NODE_GPUS))
    out = pairs * NEIGHBOR_BYTES + n * speeds.host("id_bytes")
    gpus = min(shards, machines.gpus) or None
    read = make.cpu("read", n * size / speeds.host("parquet_read"), "parquet_read", cores=shards)
    stream = (
        make.tensors("search", products / speeds.unit("search_matmul"), "search_matmul", gpus=gpus),
        make.tensors("score", 8.0 * job.dim * pairs / speeds.unit("search_rescore"), "search_rescore", gpus=gpus),
        make.cpu("write", out / speeds.host("parquet_write"), "parquet_write", cores=writers),
        make.network("upload", out, "network out"),
    )
    begin = make.begin("neighbors")
    base = (4.0 + 2.0) * n * job.dim / shards  # float32 to score, half precision to search
    work = 8.0 * operations.BLOCK_ELEMENTS["gpu" if gpus else "cpu"] + 4.0 * chosen.rows_per_shard * (
        job.dim + 8 * job.k_max
    )
    return StagePlan(
        stage="neighbors",
        parts=(read, *stream, begin),
        seconds=in_turn(read, begin) + streamed(*stream),
        gpus_held=gpus or 0,
        storage=out,
        device_memory=base + work,
        host_memory=3.0 * NEIGHBOR_BYTES * chosen.rows_per_shard * job.k_max,
    )


def searched_share(job: Job) -> float:
    """Share of the images that a query is compared with: all, or the probed lists of `ivf`."""
    chosen = job.settings.neighbors
    if chosen.search != "ivf":
        return 1.0
    lists = chosen.ivf_lists or operations.default_lists(min(PARTITION_ROWS, job.sample))
    return min(1.0, (chosen.ivf_probes or operations.default_probes(lists)) / lists)


def heads(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `heads`: load, train, label; with several workers each trains its share of the heads."""
    make, n, chosen = Parts(speeds), job.sample, job.settings.heads
    clusters, products = job.settings.clusters, job.head_products
    workers = max(1, min(job.settings.resources.head_workers or speeds.machines.gpus or 1, chosen.heads))
    batch = min(chosen.batch_size, n)
    rows, student_rows = (1 + chosen.smoothing_neighbors) * batch, 2 * batch
    flops = operations.head_step_flops(
        products=products, dim=job.dim, hidden=chosen.hidden, heads=chosen.heads, rows=rows, student_rows=student_rows
    )
    moved = operations.head_step_bytes(parameters=job.head_parameters, heads=chosen.heads, rows=rows, clusters=clusters)
    steps = chosen.epochs * (n // batch)
    matmul, memory = speeds.unit("heads_matmul"), speeds.unit("heads_memory")
    loaded = n * row_bytes(job, speeds) + float(n) * job.k_max * 8
    load = make.cpu("load", loaded / speeds.host("parquet_read"), "parquet_read", cores=1)
    train = make.tensors(
        "train", steps * (flops / matmul + moved / memory), "heads_matmul", "heads_memory", gpus=workers
    )
    label = make.tensors("label", 2.0 * n * chosen.heads * products / matmul, "heads_matmul", gpus=workers)
    begin = make.begin("heads")
    share = math.ceil(chosen.heads / workers)
    split = job.settings.resources.parallelism == "heads" and speeds.device == "gpu"
    uneven = share * workers / chosen.heads if split else 1.0  # the worker with most heads is waited for
    own = share if split else chosen.heads
    data = 2.0 * n * job.dim + float(n) * job.k_max * TRAINING_NEIGHBOR_BYTES + 8.0 * n
    work = operations.head_memory(
        parameters=job.head_parameters,
        heads=own,
        rows=rows,
        hidden=chosen.hidden,
        bottleneck=chosen.bottleneck,
        clusters=clusters,
        device=speeds.device,
    )
    saved = 4.0 * chosen.heads * job.head_parameters
    return StagePlan(
        stage="heads",
        parts=(load, train, label, begin),
        seconds=in_turn(load, begin) + uneven * in_turn(train, label),
        gpus_held=workers if speeds.machines.gpus else 0,
        storage=saved + n * (4.0 * chosen.heads + speeds.host("id_bytes")),  # a complete stage keeps no checkpoint
        device_memory=data + work,
        host_memory=data + 2.0 * NEIGHBOR_BYTES * job.settings.neighbors.rows_per_shard * job.k_max,  # and one file
    )


def consensus(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `consensus`: each method that serves the size, then votes; no two rows of labels are taken as equal."""
    make, n, n_heads = Parts(speeds), float(job.sample), job.settings.heads.heads
    methods = [parts for name, parts in _methods(job, speeds).items() if name in job.settings.consensus.methods]
    if not methods:
        raise PlanError(
            f"none of consensus.methods = {', '.join(job.settings.consensus.methods)} serves {job.sample:,} images of "
            f"{n_heads} heads; add mcla, or set heads.max_images lower"
        )
    voting = operations.MAX_VOTES * n * n_heads / speeds.host("votes")
    votes = make.cpu("votes", voting, "votes", cores=math.ceil(n / IMAGES_PER_SHARD))
    begin = make.begin("consensus")
    together = sum(part.cpu_seconds for parts in methods for part in parts) / speeds.machines.cpus
    return StagePlan(
        stage="consensus",
        parts=(*itertools.chain.from_iterable(methods), votes, begin),
        seconds=max([in_turn(*parts) for parts in methods] + [together]) + in_turn(votes, begin),
        storage=n * (LABEL_BYTES + speeds.host("id_bytes")),
        host_memory=max(
            LABEL_WORK_BYTES * min(n, IMAGES_PER_SHARD) * n_heads,
            2 * 2 * HEADS_PER_ARRAY * n * 2,  # two arrays of all images in uint16, as they came and side by side
            GRAPH_BYTES * cluster_pairs(job),
        ),
    )


def _methods(job: Job, speeds: Speeds) -> dict[str, tuple[Part, ...]]:
    """What each method that serves the size does, at two tolerances but for HGPA (`core.consensus.ensemble`)."""
    make, n, clusters = Parts(speeds), float(job.sample), job.settings.clusters
    n_heads = job.settings.heads.heads
    labels, blocks = n * n_heads, math.ceil(n_heads / HEADS_PER_ARRAY)
    pairs = make.cpu("mcla", labels * n_heads / speeds.host("mcla"), "mcla", cores=blocks * (blocks + 1) // 2)
    made: dict[str, tuple[Part, ...]] = {
        "mcla": (pairs, make.cpu("mcla's cuts", 2 * cluster_pairs(job) / speeds.host("cut"), "cut", cores=2))
    }
    if n <= operations.MAX_CSPA_ROWS:
        made["cspa"] = (make.cpu("cspa", 2 * n * n / speeds.host("cspa"), "cspa", cores=1),)
    if labels <= operations.MAX_HGPA_PINS:
        made["hgpa"] = (make.cpu("hgpa", labels * clusters / speeds.host("hgpa"), "hgpa", cores=1),)
    if labels <= operations.MAX_HBGF_EDGES:
        made["hbgf"] = (make.cpu("hbgf", 2 * labels / speeds.host("hbgf"), "hbgf", cores=1),)
    return made


def cluster_pairs(job: Job) -> float:
    """Entries of MCLA's graph, at most."""
    clusters = float(job.settings.heads.heads * job.settings.clusters)
    return min(clusters**2, operations.MAX_MCLA_PAIRS)


def classifier(job: Job, speeds: Speeds) -> StagePlan:
    """Stage `classifier`: the whole grid on one device."""
    make, n, chosen = Parts(speeds), job.sample, job.settings.classifier
    widths = operations.classifier_widths(job.layout, job.block_dim)
    rates, clusters, batch = len(chosen.learning_rates), job.settings.clusters, min(chosen.batch_size, job.sample)
    flops = operations.linear_flops(batch=batch, widths=widths, rates=rates, clusters=clusters)
    wide = 2.0 * n * (job.dim + job.block_dim)
    load = make.cpu("load", n * row_bytes(job, speeds) / speeds.host("parquet_read"), "parquet_read", cores=1)
    train = make.tensors("train", chosen.iterations * flops / speeds.unit("linear"), "linear", gpus=1)
    begin = make.begin("classifier")
    weights = 4.0 * rates * clusters * sum(width + 1 for width in widths)
    return StagePlan(
        stage="classifier",
        parts=(load, train, begin),
        seconds=in_turn(load, train, begin),
        gpus_held=min(1, speeds.machines.gpus),
        storage=4.0 * clusters * max(widths),
        # The features, and the training rows among them; weights and their velocity; logits and probabilities.
        device_memory=2 * wide + 2 * weights + 4.0 * 2 * batch * rates * clusters,
        host_memory=2 * wide,
    )
