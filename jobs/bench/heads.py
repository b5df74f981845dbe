"""One training step of all heads against the same maths as a loop over modules, and against the bare products.

    python jobs/bench/heads.py [--heads 50 --dim 384 --clusters 100 --batch 1024 --steps 5] [--compile] [--device cuda]

The loop is laid out as public TEMI code is: one `nn.Module` and one loss a head, float32, from the same parameters on
the same batches. `products` are a step's matrix products alone, in the sizes of the loop, each timed into a buffer that
stays: no step can be faster. Ratios are against the loop, in this run; losses are those of the steps measured.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from measuring import header, least, options, row
from torch import Tensor, nn

from icce_ray.core import losses as objectives
from icce_ray.core.collectives import SINGLE_PROCESS
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Execution, Precision, Recipe
from icce_ray.core.training import HeadTrainer, batch_inputs


class ModuleHead(nn.Module):
    """One head as a module, with the parameters of head `index` of a stack."""

    def __init__(self, stack: dict[str, Tensor], index: int) -> None:
        super().__init__()
        one = {name: tensor[index].clone() for name, tensor in stack.items()}
        (hidden_size, dim), bottleneck_size = one["hidden.weight"].shape, len(one["bottleneck.bias"])
        hidden, bottleneck = nn.Linear(dim, hidden_size), nn.Linear(hidden_size, bottleneck_size)
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
        clusters = trainer.networks.marginal.shape[1]
        self.marginal = torch.full((self.recipe.heads, 1, clusters), 1.0 / clusters, device=device)

    def step(self, anchors: Tensor, partners: Tensor, step: int) -> Tensor:
        """One step; the TEMI loss of each head, float32[H]."""
        recipe, batch = self.recipe, len(anchors)
        x = batch_inputs(self.trainer.features, anchors, partners, slice(0, batch), statistics=None)
        with torch.no_grad():
            targets = [
                objectives.sinkhorn(
                    [teacher(x)[None] / recipe.teacher_temperature],
                    SINGLE_PROCESS,
                    iterations=recipe.sinkhorn_iterations,
                )[0][0]
                for teacher in self.teachers
            ]
            weight = torch.stack([(t[:batch] * t[batch:]).sum(-1) for t in targets]).mean(0)
        total, found = torch.zeros((), device=x.device), []
        ramp = objectives.ce_weight(step, recipe.epochs * self.trainer.steps_per_epoch, recipe.ce_weight)
        for head, (student, target) in enumerate(zip(self.students, targets, strict=True)):
            self.marginal[head].lerp_(target.mean(0, keepdim=True), 1.0 - recipe.marginal_momentum)
            log_p = (student(x) / recipe.student_temperature).log_softmax(-1)
            other = torch.cat([target[batch:], target[:batch]])  # what each view learns from
            pmi = (recipe.beta * (log_p + other.log()) - self.marginal[head].log()).logsumexp(-1)
            temi = -0.5 * (weight.repeat(2) * pmi).sum() / batch
            total = total + temi + ramp * F.nll_loss(log_p, other.argmax(-1))
            found.append(temi.detach()[None])
        (total / recipe.heads).backward()
        self.optimizer.param_groups[0]["lr"] = self.trainer.learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(self.teachers.parameters(), self.students.parameters(), strict=True):
                slow.lerp_(fast, 1 - recipe.teacher_momentum)
        return torch.cat(found)


def bare_products(recipe: Recipe, dim: int, clusters: int, rows: int, device: str, dtype: torch.dtype) -> float:
    """Seconds of the matrix products of a step, all heads: teacher, student, and the student's way back."""
    layers = [(dim, recipe.hidden), (recipe.hidden, recipe.bottleneck), (recipe.bottleneck, clusters)]
    total = 0.0
    for index, (wide, narrow) in enumerate(layers):
        x, weight = (
            torch.randn(rows, wide, device=device, dtype=dtype),
            torch.randn(narrow, wide, device=device, dtype=dtype),
        )
        y, back, grad = x @ weight.T, torch.empty_like(x), torch.empty_like(weight)
        total += 2 * least(lambda x=x, weight=weight, y=y: torch.mm(x, weight.T, out=y), 20, now)
        total += least(lambda x=x, grad=grad, y=y: torch.mm(y.T, x, out=grad), 20, now)
        if index:  # nobody asks for the gradient of the features
            total += least(lambda back=back, weight=weight, y=y: torch.mm(y, weight, out=back), 20, now)
    return total * recipe.heads


def now() -> float:
    """Seconds, when a GPU has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and print one table."""
    parser = options(__doc__, heads=50, dim=384, clusters=100, batch=1024, steps=5, chunks=[1, 2, 4, 8, 16, 50])
    parser.add_argument("--compile", action="store_true", help="also with passes fused by torch.compile")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device, n = given.device, 4 * given.batch
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(n, given.dim, generator=generator, device=device)
    ids = torch.randint(n, (8 * n,), generator=generator, device=device)
    lists = Neighbors(torch.arange(n + 1, device=device) * 8, ids, torch.empty(0, device=device))
    recipe = Recipe(heads=given.heads, batch_size=given.batch, warmup_epochs=0)

    def trainer(**options: Any) -> HeadTrainer:
        return HeadTrainer(
            features, lists, n_clusters=given.clusters, recipe=recipe, seed=0, execution=Execution(**options)
        )

    first = trainer()
    steps: dict[tuple[str, str], Callable[[Tensor, Tensor, int], Tensor]] = {}
    steps["loop over modules", "float32"] = ModuleLoop(first).step
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for compiled, precision in product((False, True) if given.compile else (False,), precisions):
        for chunk in sorted({*given.chunks, first.chunk} & set(range(1, given.heads + 1))):
            made = trainer(chunk=chunk, precision=precision, compiled=compiled)
            name = f"{chunk}{' (chosen)' * (chunk == first.chunk)}{', compiled' * compiled}"
            steps[name, precision] = lambda *batch, made=made: made.step(*batch)[0]
    taken, losses = rounds(steps, first, given.steps)
    print(f"{vars(given)}, {torch.get_num_threads()} threads\n")
    header("heads per product", "products", "ms per step", "speed against the loop", "largest difference of a loss")
    base, reference = next(iter(taken.values())), next(iter(losses.values()))
    for (name, precision), seconds in taken.items():
        error = float(((losses[name, precision] - reference) / reference).abs().max())
        row(name, precision, f"{1e3 * seconds:.0f}", f"{base / seconds:.2f}", f"{error:.0e}")
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seconds = bare_products(recipe, given.dim, given.clusters, 2 * given.batch, device, dtype)
        row("bare products", precision, f"{1e3 * seconds:.0f}", f"{base / seconds:.2f}", "")


def rounds(
    steps: dict[tuple[str, str], Callable[[Tensor, Tensor, int], Tensor]], draws: HeadTrainer, count: int
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], Tensor]]:
    """Least seconds of each step and its losses; all take turns on the same batches, so that none has a better hour."""
    generator = torch.Generator(draws.features.device).manual_seed(1)
    taken, losses = {key: float("inf") for key in steps}, {key: [] for key in steps}
    for index in range(count + 1):
        order = torch.randperm(len(draws.features), generator=generator, device=draws.features.device)
        anchors = order[: draws.batch_size]
        partners = draws.draw(anchors, generator)
        for key, step in steps.items():
            started = now()
            losses[key].append(step(anchors, partners, index))
            taken[key] = min(taken[key], now() - started) if index else taken[key]
    return taken, {key: torch.stack(found) for key, found in losses.items()}


if __name__ == "__main__":
    main()
