"""One training step of all heads: chunks of heads of several sizes against a loop over modules.

    python jobs/bench/heads.py [--heads 50 --dim 384 --clusters 100 --batch 1024 --steps 5]

The loop is the same maths the way public TEMI code is laid out: one `nn.Module` and one loss a head, float32. The chunk
that `heads_per_chunk` picks is marked. Ratios are against the loop, in this run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from icce_ray.core import objectives
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Recipe
from icce_ray.core.sinkhorn import sinkhorn
from icce_ray.core.training import HeadTrainer


class ModuleHead(nn.Module):
    """One head as a module."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, clusters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(clusters, bottleneck) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Cosines [rows, K]."""
        return F.normalize(self.body(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class ModuleLoop:
    """Student, teacher and optimiser as a loop over heads; a step like `HeadTrainer.step`."""

    def __init__(self, recipe: Recipe, dim: int, clusters: int) -> None:
        sizes = (dim, recipe.hidden, recipe.bottleneck, clusters)
        self.recipe = recipe
        self.students = nn.ModuleList(ModuleHead(*sizes) for _ in range(recipe.heads))
        self.teachers = nn.ModuleList(ModuleHead(*sizes) for _ in range(recipe.heads)).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.students.parameters(), lr=1e-4, fused=True)
        self.marginal = torch.full((recipe.heads, 1, clusters), 1.0 / clusters)

    def step(self, x: Tensor) -> None:
        """One step on normalised inputs of both views, [2 B, D]."""
        recipe, batch = self.recipe, len(x) // 2
        with torch.no_grad():
            targets = [
                sinkhorn(teacher(x)[None] / 0.1, iterations=recipe.sinkhorn_iterations)[0] for teacher in self.teachers
            ]
            weight = sum((t[:batch] * t[batch:]).sum(-1) for t in targets) / recipe.heads
        total = torch.zeros(())
        for head, (student, target) in enumerate(zip(self.students, targets, strict=True)):
            self.marginal[head].lerp_(target.mean(0, keepdim=True), 0.1)
            log_p = objectives.log_probabilities(student(x)[None], 0.1)
            views = (log_p[:, :batch], log_p[:, batch:], target[None, :batch], target[None, batch:])
            marginal = self.marginal[head]
            temi = objectives.temi_loss(*views, marginal=marginal, weight=torch.as_tensor(weight), beta=recipe.beta)
            total = total + (temi + 0.5 * objectives.cross_entropy_loss(*views)).sum()
        (total / recipe.heads).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(self.teachers.parameters(), self.students.parameters(), strict=True):
                slow.lerp_(fast, 1 - recipe.teacher_momentum)


def seconds(step: Callable[[int], None], steps: int) -> float:
    """Least seconds of a step, after one that does not count: the least is what the machine can do."""
    step(0)
    taken = []
    for index in range(1, steps + 1):
        started = time.perf_counter()
        step(index)
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("heads", 50), ("dim", 384), ("clusters", 100), ("batch", 1024), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--chunks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 50])
    given = parser.parse_args()
    torch.manual_seed(0)
    n = 4 * given.batch
    features = torch.randn(n, given.dim)
    lists = Neighbors(torch.arange(n + 1) * 8, torch.randint(n, (8 * n,)), torch.empty(0))
    recipe = Recipe(heads=given.heads, batch_size=given.batch)
    loop = ModuleLoop(recipe, given.dim, given.clusters)
    x = torch.randn(2 * given.batch, given.dim)
    base = seconds(lambda _: loop.step(x), given.steps)
    table = Table("heads a product", title=f"{vars(given)}, {torch.get_num_threads()} threads", title_justify="left")
    table.add_column("ms a step", justify="right")
    table.add_column("speed against the loop", justify="right")
    table.add_row("loop over modules", f"{1e3 * base:.0f}", "1.00")
    generator = torch.Generator().manual_seed(0)
    automatic = HeadTrainer(features, lists, n_clusters=given.clusters, recipe=recipe, seed=0).chunk
    for chunk in sorted({*given.chunks, automatic} & set(range(1, given.heads + 1))):
        trainer = HeadTrainer(features, lists, n_clusters=given.clusters, recipe=recipe, seed=0, chunk=chunk)
        anchors = torch.arange(given.batch)

        def step(index: int, trainer: HeadTrainer = trainer, anchors: Tensor = anchors) -> None:
            trainer.step(anchors, trainer.draw(anchors, generator), index)

        taken = seconds(step, given.steps)
        name = f"{chunk} (chosen)" if chunk == automatic else str(chunk)
        table.add_row(name, f"{1e3 * taken:.0f}", f"{base / taken:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
