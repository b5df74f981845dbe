"""Head training: numerics of every switch against the CPU, no wait for the device, restore, and the step's speed."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from rates_device import FEW, MANY, StepTime, images_with_lists, labelling, products_and_rest, step_time
from safetensors.torch import load, save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpu.day import Day, Failed, Figures
from icce_ray.core.collectives import SINGLE_PROCESS, Collectives
from icce_ray.core.neighbors import Limits, Neighbors
from icce_ray.core.recipe import Execution, Precision, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer

#: Every value of every switch of the recipe, each beside the paper's others.
VARIANTS: dict[str, dict[str, Any]] = {
    "icce": {},
    "softmax": {"teacher": "softmax"},
    "standardize": {"input_norm": "standardize"},
    "without_ce": {"ce_weight": 0.0},
    "smoothing": {"smoothing_neighbors": 3},
    "estimated": {"cluster_prior": "estimated", "prior_strength": 0.8},
    "one_round": {"sinkhorn_iterations": 1},
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
#: Of an epoch, and in a dry run.
STEPS = (50, 12)
#: How far losses may be from the CPU's in float32, relative to them: in the first step, and in any, where rounding has
#: grown and a pseudo-label that is nearly a tie has turned over. On the CPU inputs 1e-6 apart gave 1e-7 and 8e-4 at
#: most, bfloat16 2e-3 and 5e-3 (in a dry run 1e-2 and 3e-2).
TOLERANCES: dict[Precision, tuple[float, float]] = {"float32": (1e-5, 5e-3), "bfloat16": (3e-2, 1e-1)}
_aten = torch.ops.aten
_READS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default, _aten.equal.default}


def problem(day: Day, **switches: Any) -> tuple[Tensor, Neighbors, Recipe]:
    """Overlapping classes on the CPU: features float32, mined lists, and a recipe with an epoch of `STEPS` steps."""
    dim, clusters, batch = day.size((384, 50, 128), (16, 5, 24))
    n, generator = day.size(*STEPS) * batch, torch.Generator().manual_seed(0)
    centres = torch.randn(clusters, dim, generator=generator)
    features = centres[torch.arange(n) % clusters] + torch.randn(n, dim, generator=generator)
    heads, hidden, bottleneck = day.size((6, 128, 64), (3, 16, 8))
    sizes: dict[str, Any] = {"heads": heads, "hidden": hidden, "bottleneck": bottleneck, "batch_size": batch}
    schedule = {"epochs": 4, "warmup_epochs": 0, "learning_rate": 1e-3, "teacher_momentum": 0.99}
    return features, mine(features, Limits(0.5, 5, 20)), Recipe(**sizes, **(schedule | switches))


def trainer_on(
    day: Day,
    device: str,
    made: tuple[Tensor, Neighbors, Recipe],
    *,
    workers: Collectives = SINGLE_PROCESS,
    **execution: Any,
) -> HeadTrainer:
    """A trainer of the problem `made` on a device."""
    features, lists, recipe = made[0].to(device), made[1].to(device), made[2]
    return HeadTrainer(
        *(features, lists),
        n_clusters=day.size(50, 5),
        recipe=recipe,
        seed=3,
        workers=workers,
        execution=Execution(**execution),
    )


def batches_of(trainer: HeadTrainer) -> list[tuple[Tensor, Tensor]]:
    """Anchors and partners of an epoch, drawn on the CPU: devices draw other numbers from the same seed."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(trainer.features), generator=generator)
    return [(part, trainer.draw(part, generator)) for part in order.split(trainer.batch_size)]


def losses_of(trainer: HeadTrainer, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Losses of each step as a mean over the heads, float32[steps, 2] on the CPU: TEMI and cross-entropy."""
    device = trainer.features.device
    found = [trainer.step(a.to(device), p.to(device), index) for index, (a, p) in enumerate(batches)]
    return torch.stack([torch.stack(pair).mean(1) for pair in found]).cpu()


def numerics(day: Day) -> Figures:
    """50 steps of every variant in both precisions, eager and compiled, against the CPU in float32.

    The largest difference of the first step and of all, relative to the CPU's losses.
    """
    found = {}
    for name, switches in VARIANTS.items():
        made = problem(day, **switches)
        plain = trainer_on(day, "cpu", made, precision="float32")
        batches = batches_of(plain)
        expected = losses_of(plain, batches)
        scale = expected.abs().amax(0).clamp_min(1e-6)
        for precision, compiled in itertools.product(PRECISIONS, (False, True)):
            with day.compiling():
                trainer = trainer_on(day, day.device, made, precision=precision, compiled=compiled)
                apart = ((losses_of(trainer, batches) - expected).abs() / scale).amax(1)
            key = f"{name}, {precision}{', compiled' * compiled}"
            found[key] = [float(apart[0]), float(apart.max())]
            allowed = TOLERANCES[precision]
            if not all(seen <= most for seen, most in zip(found[key], allowed, strict=True)):
                raise Failed(f"{key}: losses are {found[key]} from those of the CPU, first and most; {allowed} allowed")
    return {"apart": found, "steps": day.size(*STEPS)}


class _HostReads(TorchDispatchMode):
    """Raises where a value is read from the device, as CUDA's own mode does: for a dry run."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise Failed(f"{func} makes the host wait for the device")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_waiting(day: Day) -> Iterator[None]:
    """Whatever makes the host wait for the device is an error within the block."""
    if day.device == "cpu":
        with _HostReads():
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def no_waiting(day: Day) -> Figures:
    """One epoch of every variant without a wait, after one that may (libraries and compilers start)."""
    for switches in VARIANTS.values():
        trainer = trainer_on(day, day.device, problem(day, **switches))
        trainer.run_epoch()
        with without_waiting(day):
            trainer.run_epoch()
    return {"variants": list(VARIANTS)}


def restored(day: Day) -> Figures:
    """A training that goes on from the file of a checkpoint ends where the unbroken one ends, bit for bit."""
    made, size = problem(day), 0
    for precision, compiled in zip(PRECISIONS, (False, True), strict=True):
        with day.compiling():
            trainer = trainer_on(day, day.device, made, precision=precision, compiled=compiled)
            trainer.run_epoch()
            kept = save({name: tensor.cpu().contiguous() for name, tensor in trainer.state().items()})
            expected, size = _two_epochs(trainer), len(kept)
            del trainer
            gc.collect()
            trainer = trainer_on(day, day.device, made, precision=precision, compiled=compiled)
            trainer.restore(load(kept))
            found = _two_epochs(trainer)
        wrong = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
        if wrong:
            apart = float((expected["losses"] - found["losses"]).abs().max())
            raise Failed(f"{precision}: after a restore {', '.join(wrong)} differ; losses by {apart:.1e}")
    return {"bytes": size}


def _two_epochs(trainer: HeadTrainer) -> dict[str, Tensor]:
    losses = [torch.stack([one.temi, one.cross_entropy]) for one in (trainer.run_epoch(), trainer.run_epoch())]
    return {"losses": torch.stack(losses).cpu()} | {name: part.cpu() for name, part in trainer.state().items()}


def step(day: Day) -> Figures:
    """A step of 50 heads at ImageNet's size: seconds, counted work, peak memory, and shares of what the card can do.

    A whole epoch, with drawing and all, over its steps. With 16 clusters too, which tells products from the rest.
    """
    n, dim, length = day.size((1_281_167, 2048, 1280), (512, 32, 8))
    heads, batch = day.size((50, 1024), (2, 128))
    recipe, (features, lists) = Recipe(heads=heads, batch_size=batch), images_with_lists(n, dim, day.device, length)
    labelled, steps = min(n, 4096), n // batch

    def timed(clusters: int) -> tuple[StepTime, float]:
        execution = Execution(compiled=True)
        with day.compiling():
            trainer = HeadTrainer(features, lists, n_clusters=clusters, recipe=recipe, seed=0, execution=execution)
            if day.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            return step_time(trainer, day.device), labelling(trainer, day.device, labelled)

    (few, _), (many, label) = (timed(clusters) for clusters in day.size((FEW, MANY), (4, 64)))
    rates = products_and_rest(few, many)
    return {
        "ms": 1e3 * many.seconds,
        "flops": many.flops,
        "bytes": many.bytes,
        "peak_memory": torch.cuda.max_memory_allocated() if day.device == "cuda" else None,
        "share_of_arithmetic": day.share(many.flops / many.seconds, "bfloat16_tflops", 1e12),
        "share_of_bandwidth": day.share(many.bytes / many.seconds, "bandwidth_gb_s", 1e9),
        "hours_of_400_epochs": 400 * steps * many.seconds / 3600,
        "rates": rates | {"heads_label": label},
    }
