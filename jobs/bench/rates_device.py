"""Speeds of one device, CPU or CUDA, by the project's own core and backbone: no Ray, no settings.

Used by `rates.py`, which says how; each function gives operations or bytes per second of a GPU or of a core.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable

import measuring
import numpy as np
import torch

from icce_ray.backbones import TransformerShape, describe_backbone, load_backbone
from icce_ray.core.heads import HeadCost
from icce_ray.core.linear import LinearClassifier, LinearGrid, grid_flops
from icce_ray.core.neighbors import Limits, Neighbors
from icce_ray.core.recipe import LEARNING_RATES, Execution, GridRecipe, Recipe
from icce_ray.core.search import mine, score_bytes
from icce_ray.core.training import HeadTrainer

SIDE, PASSES = 224, 2
#: DINOv2's published shapes: width, depth, attention heads, and images of a batch on a CPU.
SIZES = {"small": (384, 12, 6, 8), "base": (768, 12, 12, 4), "large": (1024, 24, 16, 2)}
GPU_BATCH = 64  # the default of resources.embed_batch


def least(work: Callable[[], object], device: str = "cpu", passes: int = PASSES) -> float:
    """Least seconds of some passes after one that does not count: what the machine can do.

    On a CPU they are seconds of one core, summed over threads and finished children: what else the machine does, and
    how many cores it has, changes little.
    """

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        spent = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in spent)

    return measuring.least(work, passes, now)


def forward(size: str, device: str) -> float:
    """FLOP/s of a backbone of this size with random weights, through the adapter, from pixels to features."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    width, depth, attention, batch = SIZES[size]
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=attention, patch_size=14, image_size=518
    )
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Model(config).save_pretrained(folder)
        dtype = "bfloat16" if device == "cuda" else "float32"
        backbone = load_backbone(describe_backbone(folder, "cls+patch_mean"), device=device, dtype=dtype)
    count = GPU_BATCH if device == "cuda" else batch
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return (
        count * TransformerShape(width=width, depth=depth).flops(SIDE) / least(lambda: backbone.embed(pixels), device)
    )


def heads(device: str) -> tuple[float, float]:
    """FLOP/s of the matrix products and B/s of the rest of a training step, from two numbers of clusters.

    The time of a step is taken as flops / a + bytes / b, with the counts of `core.heads.HeadCost`.
    """
    count, dim, batch = (50, 2048, 1024) if device == "cuda" else (4, 1024, 1024)
    few, many = (_step(device, count, dim, batch, clusters) for clusters in (16, 1000))
    solved = np.linalg.solve([few[:2], many[:2]], [few[2], many[2]])
    if (solved <= 0).any():
        raise SystemExit(f"steps of {few[2]:.3f} and {many[2]:.3f} s do not tell products from the rest: measure again")
    return 1 / float(solved[0]), 1 / float(solved[1])


def _step(device: str, count: int, dim: int, batch: int, clusters: int) -> tuple[float, float, float]:
    """(FLOP, bytes, seconds) of one step of all heads, in an epoch of four."""
    steps, generator = 4, torch.Generator().manual_seed(0)
    n = steps * batch
    features = torch.randn(n, dim, generator=generator).half().to(device)
    lists = Neighbors(torch.arange(n + 1) * 8, torch.randint(n, (8 * n,), generator=generator), torch.empty(0))
    recipe = Recipe(heads=count, batch_size=batch)
    kinds = {"n_clusters": clusters, "recipe": recipe, "seed": 0}
    trainer = HeadTrainer(
        features, lists.to(device), **kinds, execution=Execution(compiled=device == "cuda")
    )  # as resources.compile
    seconds = least(trainer.run_epoch, device, passes=1) / steps
    cost = HeadCost(recipe, dim, clusters, batch)
    return cost.step_flops(), cost.step_bytes(device), seconds


def search(device: str) -> tuple[float, float]:
    """FLOP/s of the exact search with few neighbours, and B/s of scoring and sorting when there are many."""
    dim, n, few, many = (2048, 65_536, 50, 2000) if device == "cuda" else (1024, 4096, 50, 500)
    features = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).to(device)

    def seconds(neighbors: int) -> float:
        # Every image is similar enough, and the nearest are kept: the most work for so many neighbours.
        return least(lambda: mine(features, Limits(-1.0, few, neighbors)), device)

    short, long = seconds(few), seconds(many)
    scored = [score_bytes(n, dim, pairs=n * count, rows=2048, device=device) for count in (few, many)]
    return 2.0 * n * n * dim / short, (scored[1] - scored[0]) / (long - short)


def linear(device: str) -> float:
    """FLOP/s of the classifier's grid."""
    dim, clusters, iterations = (2048, 1000, 50) if device == "cuda" else (768, 100, 10)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8192, dim, generator=generator).half().to(device)
    labels = torch.randint(clusters, (8192,), generator=generator).to(device)
    inputs = {"cls": [(0, dim // 2)], "cls+patch_mean": [(0, dim)]}
    grid = LinearGrid(features, labels, inputs=inputs, n_classes=clusters, recipe=GridRecipe(iterations=iterations))
    widths = [dim // 2, dim]
    flops = grid_flops(batch=1024, widths=widths, rates=len(LEARNING_RATES), n_classes=clusters)
    return iterations * flops / least(grid.fit, device)


def label(device: str) -> float:
    """FLOP/s of the chosen classifier on one shard of 1,024 images, its way to the device and back included."""
    dim, clusters, rows = 2048, 1000, 1024
    generator = torch.Generator().manual_seed(0)
    weight, features = (
        torch.randn(clusters, dim, generator=generator),
        torch.randn(rows, dim, generator=generator).half(),
    )
    chosen = LinearClassifier(weight.to(device), torch.zeros(clusters, device=device))

    def one_shard() -> torch.Tensor:
        return chosen.probabilities(features.to(device)).max(dim=1).indices.cpu()

    return 2.0 * rows * dim * clusters / least(one_shard, device)


def measured(device: str) -> dict[str, float]:
    """All speeds of section `core`."""
    if device == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other spin, which would count as work
    found = {f"forward_{size}": forward(size, device) for size in SIZES}
    found["heads_matmul"], found["heads_memory"] = heads(device)
    found["search_matmul"], found["search_rescore"] = search(device)
    found["linear"] = linear(device)
    return found | ({"label": label(device)} if device == "cpu" else {})  # labels are given on CPUs
