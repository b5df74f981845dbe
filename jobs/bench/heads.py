"""One training step of all heads against the same maths as a loop over modules, and against the bare products.

    python jobs/bench/heads.py [--heads 50 --dim 384 --clusters 100 --batch 1024 --steps 5] [--compile] [--device cuda]

The loop is laid out as public TEMI code is: one `nn.Module` and one loss a head, float32, from the same parameters on
the same batches. `products` are a step's matrix products alone, in the sizes of the loop, each timed into a buffer that
stays: no step can be faster. Ratios are against the loop, in this run; losses are those of the steps measured.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from icce_ray.core import objectives
from icce_ray.core.inputs import batch_inputs
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Recipe
from icce_ray.core.sinkhorn import sinkhorn
from icce_ray.core.training import HeadTrainer, Precision


class ModuleHead(nn.Module):
    """One head as a module, with the parameters of head `index` of a stack."""

    def __init__(self, stack: dict[str, Tensor], index: int) -> None:
        super().__init__()
        one = {name: tensor[index].clone() for name, tensor in stack.items()}
        hidden, bottleneck = (
            nn.Linear(*one["hidden.weight"].shape[::-1]),
            nn.Linear(*one["bottleneck.weight"].shape[::-1]),
        )
        for layer, name in ((hidden, "hidden"), (bottleneck, "bottleneck")):
            layer.load_state_dict({"weight": one[f"{name}.weight"], "bias": one[f"{name}.bias"]})
        self.body = nn.Sequential(hidden, nn.GELU(), bottleneck)
        self.prototypes = nn.Parameter(one["prototypes"])

    def forward(self, x: Tensor) -> Tensor:
        """Cosines [rows, K]."""
        return F.normalize(self.body(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class ModuleLoop:
    """Student, teacher and optimiser as a loop over heads; a step like `HeadTrainer.step`."""

    def __init__(self, trainer: HeadTrainer) -> None:
        stack, device = trainer.networks.student.stacked(), trainer.features.device
        self.trainer, self.recipe = trainer, trainer.recipe
        self.students = nn.ModuleList(ModuleHead(stack, head) for head in range(self.recipe.heads)).to(device)
        self.teachers = copy.deepcopy(self.students).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.students.parameters(), lr=0.0, weight_decay=1e-4, fused=True)
        clusters = trainer.n_clusters
        self.marginal = torch.full((self.recipe.heads, 1, clusters), 1.0 / clusters, device=device)

    def step(self, anchors: Tensor, partners: Tensor, step: int) -> Tensor:
        """One step; the TEMI loss of each head, float32[H]."""
        recipe, batch = self.recipe, len(anchors)
        x = batch_inputs(self.trainer.features, anchors, partners, slice(0, batch), statistics=None)
        with torch.no_grad():
            targets = [
                sinkhorn(teacher(x)[None] / recipe.teacher_temperature, iterations=recipe.sinkhorn_iterations)[0]
                for teacher in self.teachers
            ]
            weight = torch.stack([(t[:batch] * t[batch:]).sum(-1) for t in targets]).mean(0)
        total, found = torch.zeros((), device=x.device), []
        ramp = objectives.ce_weight(step, recipe.epochs * self.trainer.steps_per_epoch, recipe.ce_weight)
        for head, (student, target) in enumerate(zip(self.students, targets, strict=True)):
            self.marginal[head].lerp_(target.mean(0, keepdim=True), 1.0 - recipe.marginal_momentum)
            log_p = (student(x)[None] / recipe.student_temperature).log_softmax(-1)
            views = (log_p[:, :batch], log_p[:, batch:], target[None, :batch], target[None, batch:])
            temi = objectives.temi_loss(*views, marginal=self.marginal[head], weight=weight, beta=recipe.beta)
            total = total + (temi + ramp * objectives.cross_entropy_loss(*views)).sum()
            found.append(temi.detach())
        (total / recipe.heads).backward()
        self.optimizer.param_groups[0]["lr"] = self.trainer.learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(self.teachers.parameters(), self.students.parameters(), strict=True):
                slow.lerp_(fast, 1 - recipe.teacher_momentum)
        return torch.cat(found)


def products(recipe: Recipe, dim: int, clusters: int, rows: int, device: str, dtype: torch.dtype) -> float:
    """Seconds of the matrix products of a step, all heads: teacher, student, and the student's way back."""
    layers = [(dim, recipe.hidden), (recipe.hidden, recipe.bottleneck), (recipe.bottleneck, clusters)]
    total = 0.0
    for index, (wide, narrow) in enumerate(layers):
        x, weight = (
            torch.randn(rows, wide, device=device, dtype=dtype),
            torch.randn(narrow, wide, device=device, dtype=dtype),
        )
        y, back, grad = x @ weight.T, torch.empty_like(x), torch.empty_like(weight)
        total += 2 * seconds(lambda _, x=x, weight=weight, y=y: torch.mm(x, weight.T, out=y), 20)
        total += seconds(lambda _, x=x, grad=grad, y=y: torch.mm(y.T, x, out=grad), 20)
        if index:  # nobody asks for the gradient of the features
            total += seconds(lambda _, back=back, weight=weight, y=y: torch.mm(y, weight, out=back), 20)
    return total * recipe.heads


def seconds(step: Callable[[int], object], steps: int) -> float:
    """Least seconds of a step, after one that does not count: the least is what the machine can do."""

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    step(0)
    taken = []
    for index in range(1, steps + 1):
        started = now()
        step(index)
        taken.append(now() - started)
    return min(taken)


def main() -> None:
    """Measure and print one table."""
    given = arguments()
    device, n = given.device, 4 * given.batch
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(n, given.dim, generator=generator, device=device)
    ids = torch.randint(n, (8 * n,), generator=generator, device=device)
    lists = Neighbors(torch.arange(n + 1, device=device) * 8, ids, torch.empty(0, device=device))
    recipe = Recipe(heads=given.heads, batch_size=given.batch, warmup_epochs=0)

    def trainer(**options: Any) -> HeadTrainer:
        return HeadTrainer(features, lists, n_clusters=given.clusters, recipe=recipe, seed=0, **options)

    def measured(step: Callable[[Tensor, Tensor, int], Tensor]) -> tuple[float, Tensor]:
        found: list[Tensor] = []
        draws = torch.Generator(device).manual_seed(1)

        def one(index: int) -> None:
            order = torch.randperm(n, generator=draws, device=device)[: given.batch]
            found.append(step(order, first.draw(order, draws), index))

        taken = seconds(one, given.steps)
        return taken, torch.stack(found)

    first = trainer()
    table = Table("heads a product", title=f"{vars(given)}, {torch.get_num_threads()} threads", title_justify="left")
    for name in ("products", "ms a step", "speed against the loop", "largest difference of a loss"):
        table.add_column(name, justify="right")
    base, losses = measured(ModuleLoop(first).step)
    table.add_row("loop over modules", "float32", f"{1e3 * base:.0f}", "1.00", "")
    kinds: list[tuple[Precision, bool]] = [("float32", False), ("bfloat16", False)]
    kinds += [("float32", True), ("bfloat16", True)] if given.compile else []
    for precision, compiled in kinds:
        for chunk in sorted({*given.chunks, first.chunk} & set(range(1, given.heads + 1))):
            made = trainer(chunk=chunk, precision=precision, compiled=compiled)
            taken, found = measured(lambda *batch, made=made: made.step(*batch)[0])
            name = f"{chunk}{' (chosen)' * (chunk == first.chunk)}{', compiled' * compiled}"
            error = float(((found - losses) / losses).abs().max())
            table.add_row(name, precision, f"{1e3 * taken:.0f}", f"{base / taken:.2f}", f"{error:.0e}")
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        taken = products(recipe, given.dim, given.clusters, 2 * given.batch, device, dtype)
        table.add_row("bare products", precision, f"{1e3 * taken:.0f}", f"{base / taken:.2f}", "")
    Console().print(table)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("heads", 50), ("dim", 384), ("clusters", 100), ("batch", 1024), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--chunks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 50])
    parser.add_argument("--compile", action="store_true", help="also with passes fused by torch.compile")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
