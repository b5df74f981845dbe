"""What more than one process does: `icce doctor`, a small run, two ranks; and the mapping of neighbour ids."""

from __future__ import annotations

import tempfile
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import multiprocessing

from gpu.day import Day, Failed, Figures, Skipped
from gpu.training import problem, trainer_on
from icce_ray.core.collectives import Distributed
from icce_ray.core.metrics import scores

#: Labels of two devices agree so far at least; rounding moves images between classes that overlap.
LEAST_ARI = 0.95
#: Losses of two workers, relative to those of one: DESIGN's promise for another number of workers.
RANKS_APART = 1e-5
CLUSTERS, SEED = 5, 0
HEADS: dict[str, Any] = {"heads": 4, "hidden": 32, "bottleneck": 16, "epochs": 20, "warmup_epochs": 2, "batch_size": 64}
HEADS |= {"learning_rate": 4e-3, "teacher_momentum": 0.9}


def doctor(day: Day) -> Figures:
    """`icce doctor` finds no fault; in a dry run, what it finds."""
    from icce_ray.doctor import examine

    found = examine(gpu=not day.dry)
    faults = [f"{one.name}: {one.found}; {one.remedy}" for one in found if one.remedy]
    if faults and not day.dry:
        raise Failed("; ".join(faults))
    return {one.name: one.found for one in found}


def loading(day: Day) -> Figures:
    """Nanoseconds per pair of mapping image_ids to rows, of 1.28 M images without and with gaps."""
    from icce_ray.stages.neighbors import row_numbers

    n, pairs, block = day.size((1_281_167, 10**8, 10**7), (1000, 10_000, 1000))
    rng, found = np.random.default_rng(0), {}
    for name, image_ids in (("contiguous", np.arange(n) + 7), ("gaps", np.flatnonzero(np.arange(2 * n) % 3))):
        wanted = image_ids[rng.integers(0, len(image_ids), block)]
        started = time.perf_counter()
        row_of = row_numbers(image_ids)
        rows = row_of(wanted)
        for _ in range(pairs // block - 1):
            row_of(wanted)
        found[f"ns_per_pair_{name}"] = 1e9 * (time.perf_counter() - started) / pairs
        if not np.array_equal(image_ids[rows], wanted):
            raise Failed(f"{name}: rows of image_ids are not those of a search")
    return {"pairs": pairs} | found


def small_run(day: Day) -> Figures:
    """`icce run` over features on the device, its labels against those that `ICCE` finds on the CPU."""
    from icce_ray import ICCE, pipeline
    from icce_ray.settings import load
    from icce_ray.stages.features import read_column
    from icce_ray.store import Store
    from icce_ray.store.artifacts import CONSENSUS

    day.connect()
    rng, n = np.random.default_rng(0), day.size(2000, 200)
    truth = np.arange(n) % CLUSTERS
    features = (3 * rng.normal(size=(CLUSTERS, 32))[truth] + rng.normal(size=(n, 32))).astype(np.float16)
    lists: dict[str, Any] = {"components": 0, "threshold": 0.5, "k_min": 10}
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        np.save(Path(place) / "features.npy", features)
        values = {"source": f"{place}/features.npy", "out": f"{place}/run", "clusters": CLUSTERS, "seed": SEED}
        groups = {"neighbors": lists, "heads": HEADS, "resources": {"device": day.device}}
        pipeline.run(load(values | groups), last="consensus", verbose=False)
        labels = read_column(Store(f"{place}/run"), CONSENSUS, "label")
        warnings.simplefilter("ignore")  # of heads that collapsed, in so short a training
        model: Any = ICCE(CLUSTERS, random_state=SEED, device="cpu", **lists, **HEADS)
        ours = model.fit(features).labels_
    found = {"ari": scores(labels, ours)["ari"], "ari_of_truth": scores(labels, truth)["ari"]}
    if found["ari"] < LEAST_ARI:
        raise Failed(f"ARI of the labels and the CPU's is {found['ari']:.3f}, at least {LEAST_ARI} wanted")
    return found | {"images": n}


def two_ranks(day: Day) -> Figures:
    """Two ranks by NCCL (in a dry run by gloo), heads and batches shared: an epoch's losses against one process."""
    if not day.dry and torch.cuda.device_count() < 2:
        raise Skipped(f"{torch.cuda.device_count()} GPU: two ranks need two")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        ranks = [context.Process(target=_rank, args=(rank, day.device, day.dry, place)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        alone = _epoch(day, "heads")
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise Failed(f"ranks ended with {[rank.exitcode for rank in ranks]}; what they said is above")
        losses = load_file(f"{place}/losses.safetensors")
    found = {parallelism: float(((one - alone) / alone).abs().max()) for parallelism, one in losses.items()}
    if max(found.values()) > RANKS_APART:
        raise Failed(f"losses of two ranks are {found} from those of one process, {RANKS_APART} allowed")
    return {"apart": found}


def _epoch(day: Day, parallelism: Any, **workers: Any) -> torch.Tensor:
    """TEMI losses of one epoch in float32, of all heads."""
    trainer = trainer_on(day, day.device, problem(day), precision="float32", parallelism=parallelism, **workers)
    return trainer.run_epoch().temi.cpu()


def _rank(rank: int, device: str, dry: bool, place: str) -> None:
    """One process of two; the first writes what both found."""
    day = Day(device, dry, {})
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{place}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    losses = {name: _epoch(day, name, workers=Distributed()).contiguous() for name in ("heads", "data")}
    if rank == 0:
        save_file(losses, f"{place}/losses.safetensors")
    dist.destroy_process_group()
