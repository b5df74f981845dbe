"""The grid of linear classifiers in one pass against training its classifiers one after another.

    python jobs/bench/classifier.py [--dim 384 --blocks 1 4 --clusters 100 1000 --batch 1024 --iterations 10]

A grid is 13 learning rates for every input that a run trains: with one block the CLS token alone and with the patch
mean, with four blocks also these of the last four. One after another is the obvious way: `nn.Linear`, `cross_entropy`,
SGD with momentum, `CosineAnnealingLR`, each classifier over the standardised float32 columns of its own input, made
beforehand and not counted. In bfloat16 it runs under autocast. Milliseconds are of one step of all classifiers, the
least of all iterations. The floor is the two products of every input alone, in memory that stays, at the grid's shapes.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
import torch.nn.functional as F
from measuring import header, least, options, row
from torch import Tensor, nn

from icce_ray.core.linear import LinearGrid
from icce_ray.core.recipe import LEARNING_RATES, GridRecipe
from icce_ray.stages.features import classifier_inputs

Columns = dict[str, list[tuple[int, int]]]
ROUNDS = 2  # of everything, of which the lesser counts: another process may take a core for seconds
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def one_after_another(x: Tensor, labels: Tensor, rate: float, settings: dict[str, Any]) -> float:
    """Least seconds of a step of one classifier over standardised columns [N, d]."""
    layer = nn.Linear(x.shape[1], settings["n_classes"])
    batch, iterations = settings["batch_size"], settings["iterations"]
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * batch / 256, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    order = torch.randperm(len(x))

    steps = itertools.count()

    def step() -> None:
        start = next(steps) * batch % (len(x) - batch + 1)
        rows = order[start : start + batch]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bfloat16"):
            loss = F.cross_entropy(layer(x[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        scheduler.step()

    return least(step, iterations)


def in_one_pass(features: Tensor, labels: Tensor, inputs: Columns, settings: dict[str, Any]) -> float:
    """Least seconds of a step of the grid."""
    stamps = [time.perf_counter()]
    recipe = GridRecipe(batch_size=settings["batch_size"], iterations=settings["iterations"])
    options = {name: settings[name] for name in ("n_classes", "precision")}
    grid = LinearGrid(features, labels, inputs=inputs, recipe=recipe, **options)
    grid.fit(lambda *_: stamps.append(time.perf_counter()))
    return min(after - before for before, after in itertools.pairwise(stamps[1:]))


def floor(inputs: Columns, settings: dict[str, Any]) -> float:
    """Least seconds of the products of a step: all inputs to logits, and back to gradients."""
    batch, wide = settings["batch_size"], len(LEARNING_RATES) * settings["n_classes"]
    dtype, total = DTYPES[settings["precision"]], 0.0
    logits = torch.randn(batch, wide).to(dtype)
    for parts in inputs.values():
        x = torch.randn(batch, sum(stop - start for start, stop in parts)).to(dtype)
        weight = torch.randn(wide, x.shape[1]).to(dtype)
        gradient, out = torch.empty_like(weight), torch.empty_like(logits)
        total += least(lambda x=x, w=weight, out=out: torch.mm(x, w.T, out=out), settings["iterations"])
        total += least(lambda x=x, out=gradient: torch.mm(logits.T, x, out=out), settings["iterations"])
    return total


def standardised(features: Tensor, parts: list[tuple[int, int]]) -> Tensor:
    """Columns of one input, float32[N, d]."""
    x = torch.cat([features[:, slice(*part)] for part in parts], dim=1).float()
    return (x - x.mean(0)) / x.std(0)


def print_rows(dim: int, blocks: int, settings: dict[str, Any], images: int) -> None:
    """Both precisions of one grid."""
    inputs = classifier_inputs({"cls": [0, dim], "patch_mean": [dim, 2 * dim]}, 2 * dim, 4 * dim if blocks > 1 else 0)
    width = max(stop for parts in inputs.values() for _, stop in parts)
    features, labels = torch.randn(images, width).half(), torch.randint(settings["n_classes"], (images,))
    labels[: settings["n_classes"]] = torch.arange(settings["n_classes"])
    base = 0.0
    for precision in DTYPES:
        chosen, taken = settings | {"precision": precision}, []
        for _ in range(ROUNDS):
            each = [
                one_after_another(x, labels, rate, chosen)
                for x in (standardised(features, parts) for parts in inputs.values())
                for rate in LEARNING_RATES
            ]
            taken.append([in_one_pass(features, labels, inputs, chosen), floor(inputs, chosen), *each])
        grid, bare, *each = (min(times) for times in zip(*taken, strict=True))
        alone = sum(each)
        base = base or alone
        widths = "+".join(str(sum(stop - start for start, stop in parts)) for parts in inputs.values())
        numbers = [f"{1e3 * value:.1f}" for value in (bare, grid, alone)]
        ratios = [f"{bare / grid:.0%}", f"{alone / grid:.2f}", f"{base / grid:.2f}"]
        row(widths, settings["n_classes"], precision, *numbers, *ratios)


def main() -> None:
    """Measure and print one table."""
    sizes = {"dim": 384, "batch": 1024, "iterations": 10, "images": 8192}
    given = options(__doc__, **sizes, blocks=[1, 4], clusters=[100, 1000]).parse_args()
    torch.manual_seed(0)
    print(f"{vars(given)}, {torch.get_num_threads()} threads\n")
    times = ("floor ms", "grid ms", "one after another ms", "of the floor", "speed", "speed against float32")
    header("inputs", "K", "precision", *times)
    for blocks in given.blocks:
        for clusters in given.clusters:
            settings = {"n_classes": clusters, "batch_size": given.batch, "iterations": given.iterations}
            print_rows(given.dim, blocks, settings, given.images)


if __name__ == "__main__":
    main()
