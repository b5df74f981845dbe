"""Speeds of one device, CPU or CUDA, by the project's own core and backbone: no Ray, no settings.

Used by `rates.py` for a core and by `gpu_day.py` for a GPU; functions give operations or bytes per second of either.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import measuring
import numpy as np
import torch
from torch import Tensor

from icce_ray.core.heads import HeadCost
from icce_ray.core.linear import LinearClassifier, LinearGrid, grid_flops
from icce_ray.core.neighbors import Limits, Neighbors
from icce_ray.core.products import CoarseRows
from icce_ray.core.recipe import LEARNING_RATES, GridRecipe, Recipe
from icce_ray.core.search import score_bytes, search_shard, unit_rows
from icce_ray.core.training import HeadTrainer

SIDE, PASSES = 224, 2
Shape = tuple[int, int, int]
"""Width, depth and attention heads of a transformer."""
#: DINOv2's published ones, and images of a batch on a CPU.
SHAPES: dict[str, Shape] = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
CPU_BATCH = {"small": 8, "base": 4, "large": 2}
#: Numbers of clusters of which steps are timed, to tell their products from the rest.
FEW, MANY = 16, 1000


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


@contextlib.contextmanager
def random_weights(shape: Shape) -> Iterator[str]:
    """A folder with a DINOv2 of this shape and random weights, for as long as the block takes."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    width, depth, attention = shape
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=attention, patch_size=14, image_size=518
    )
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Model(config).save_pretrained(folder)
        yield folder


def forward(weights: str, shape: Shape, device: str, batch: int) -> float:
    """FLOP/s of the backbone in a folder, through the adapter, from pixels to features."""
    from icce_ray.backbones import TransformerShape, describe_backbone, load_backbone

    dtype = "bfloat16" if device == "cuda" else "float32"
    backbone = load_backbone(describe_backbone(weights, "cls+patch_mean"), device=device, dtype=dtype)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8)
    flops = TransformerShape(width=shape[0], depth=shape[1]).flops(SIDE)
    return batch * flops / least(lambda: backbone.embed(pixels), device)


@dataclass(frozen=True)
class StepTime:
    """A training step of all heads: the operations and bytes it is counted to take, and the seconds it took."""

    flops: float
    bytes: float
    seconds: float


def step_time(trainer: HeadTrainer, device: str, passes: int = 1) -> StepTime:
    """A step's share of the seconds of an epoch, after one that compiles."""
    seconds = least(trainer.run_epoch, device, passes) / trainer.steps_per_epoch
    clusters = trainer.networks.marginal.shape[1]
    cost = HeadCost(trainer.recipe, trainer.features.shape[1], clusters, trainer.batch_size)
    return StepTime(cost.step_flops(), cost.step_bytes(device), seconds)


def products_and_rest(few: StepTime, many: StepTime) -> dict[str, float]:
    """FLOP/s of the matrix products and B/s of the rest of a step, from two numbers of clusters.

    The time of a step is taken as flops / a + bytes / b, with the counts of `core.heads.HeadCost`. Nothing where the
    seconds are not of this form, as those of a busy machine.
    """
    solved = np.linalg.solve([(one.flops, one.bytes) for one in (few, many)], [few.seconds, many.seconds])
    return dict(zip(("heads_matmul", "heads_memory"), (1 / solved).tolist(), strict=True)) if (solved > 0).all() else {}


def images_with_lists(n: int, dim: int, device: str, length: int = 8) -> tuple[Tensor, Neighbors]:
    """Features float16[n, dim] of no structure, and as many random neighbours of each, int32."""
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(n, dim, generator=generator, device=device, dtype=torch.float16)
    ids = torch.randint(n, (n * length,), generator=generator, device=device, dtype=torch.int32)
    return features, Neighbors(torch.arange(n + 1, device=device) * length, ids, torch.empty(0, device=device))


def heads() -> dict[str, float]:
    """Of a core: FLOP/s of a step's matrix products, B/s of the rest of it, and FLOP/s of labelling."""
    torch.set_num_threads(1)  # threads that wait for each other spin, which would count as work
    batch = 1024
    features, lists = images_with_lists(4 * batch, 1024, "cpu")
    recipe = Recipe(heads=4, batch_size=batch)
    few, many = (HeadTrainer(features, lists, n_clusters=clusters, recipe=recipe, seed=0) for clusters in (FEW, MANY))
    found = products_and_rest(step_time(few, "cpu"), step_time(many, "cpu"))
    if not found:
        raise SystemExit("the seconds of a step do not tell its products from the rest: measure on a quieter machine")
    return found | {"heads_label": labelling(many, "cpu", batch)}


def labelling(trainer: HeadTrainer, device: str, rows: int) -> float:
    """FLOP/s of labelling some of the images by all heads, in float32."""
    clusters = trainer.networks.marginal.shape[1]
    cost = HeadCost(trainer.recipe, trainer.features.shape[1], clusters, trainer.batch_size)
    seconds = least(lambda: trainer.labels(trainer.features[:rows]), device)
    return 2.0 * rows * trainer.recipe.heads * cost.products / seconds


def search(features: Tensor, queries: int, *, few: int, many: int) -> dict[str, float]:
    """FLOP/s of the exact search with few neighbours, B/s of scoring and sorting when there are many.

    `features` are rows [n, D] of no structure, of which the first `queries` are searched. Every image is similar
    enough, and the nearest are kept: the most work for so many neighbours. The second is left out where more neighbours
    did not take longer.
    """
    unit = unit_rows(features)
    coarse, n, dim, device = CoarseRows.of(unit), *features.shape, features.device.type
    rows = torch.arange(queries, device=unit.device)

    def seconds(neighbors: int) -> float:
        limits = Limits(-1.0, few, neighbors)
        shard = {"first_base": 0, "coarse": coarse}
        return least(
            lambda: [search_shard(unit[part], unit, limits, query_rows=part, **shard) for part in rows.split(2048)],
            device,
        )

    short, long = seconds(few), seconds(many)
    found = {"search_matmul": 2.0 * queries * n * dim / short}
    scored = [score_bytes(n, dim, pairs=queries * count, rows=2048, device=device) for count in (few, many)]
    return found | ({"search_rescore": (scored[1] - scored[0]) / (long - short)} if long > short else {})


def linear(device: str, *, dim: int, clusters: int, iterations: int) -> float:
    """FLOP/s of the classifier's grid."""
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


def measured() -> dict[str, float]:
    """All speeds of section `core`, of one core."""
    torch.set_num_threads(1)
    found = {}
    for size, shape in SHAPES.items():
        with random_weights(shape) as weights:
            found[f"forward_{size}"] = forward(weights, shape, "cpu", CPU_BATCH[size])
    features, _ = images_with_lists(4096, 1024, "cpu")
    found |= heads() | search(features.float(), 4096, few=50, many=500)
    return found | {"linear": linear("cpu", dim=768, clusters=100, iterations=10), "label": label("cpu")}
