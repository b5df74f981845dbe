"""Training of the clustering heads (paper 3.1: TEMI with batch norm, Sinkhorn teacher and a CE term).

Everything a step touches lives on one device: features, ragged neighbour lists, parameters, random numbers, loss sums.
Nothing in a step reads a value back to the host.

Several workers train together in one of two ways, and both do what one process does, but for the order of float sums:
- `heads`: each trains its share of the heads on the same batches. Heads share nothing but w(x, x'): B floats a step.
- `data`: each takes its share of every batch, for all heads. All gradients are exchanged, and the few sums over the
  batch: Sinkhorn's columns and the class marginals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from icce_ray.core import losses, passes
from icce_ray.core.collectives import (
    SINGLE_PROCESS,
    Collectives,
    all_reduce,
    share,
    shares,
    start_gradient_reduce,
)
from icce_ray.core.compiling import compilable
from icce_ray.core.heads import HeadBank, Networks, derived_seed, heads_per_chunk
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.passes import Assigned, Taught
from icce_ray.core.recipe import Execution, Recipe, product_precision

BATCH_NORM_EPS = 1e-5
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class EpochLosses:
    """Mean losses of one epoch over all images, each float32[H] on the training device."""

    temi: Tensor
    cross_entropy: Tensor


class HeadTrainer:
    """Student and teacher heads over frozen features, trained epoch by epoch.

    `features` is [N, D] float16 or float32, `neighbors` the lists of its N rows, on the same device, which is
    where everything runs. Every random number comes from (seed, epoch) or (seed, head): a trainer restored at an
    epoch goes on exactly as if it had never stopped.

    Each of several `workers` makes a trainer of the same features, neighbours, recipe and seed; then all call the same
    methods in the same order, and each is given the same results.
    """

    def __init__(
        self,
        features: Tensor,
        neighbors: Neighbors,
        *,
        n_clusters: int,
        recipe: Recipe,
        seed: int,
        workers: Collectives = SINGLE_PROCESS,
        execution: Execution = Execution(),  # noqa: B008 - it is frozen
    ) -> None:
        """Raises ValueError if a row has no neighbour, the lists are not of the features, or a worker has no head."""
        if len(neighbors.counts) != len(features):
            raise ValueError(f"{len(neighbors.counts)} neighbour lists for {len(features)} features; they must match")
        if bool((neighbors.counts == 0).any()):
            raise ValueError("an image has no neighbour; mine with k_min >= 1")
        by_heads, device = execution.parallelism == "heads", features.device
        if by_heads and workers.size > recipe.heads:
            raise ValueError(f"{workers.size} workers for {recipe.heads} heads; take at most {recipe.heads} workers")
        self.features, self.neighbors, self.recipe, self.seed = features, neighbors, recipe, seed
        self.batch_size = min(recipe.batch_size, len(features))
        self.steps_per_epoch = len(features) // self.batch_size
        self.epoch = 0
        self.mean, self.std = feature_statistics(features)
        # Who the heads are shared with, and who the pairs of a batch; at most one of them is more than this process.
        self.workers = workers
        self.head_workers, self.batch_workers = (workers, SINGLE_PROCESS) if by_heads else (SINGLE_PROCESS, workers)
        self.chunk = execution.chunk or heads_per_chunk(
            device,
            n_heads=shares(recipe.heads, self.head_workers.size)[0],
            rows=(1 + recipe.smoothing_neighbors) * shares(self.batch_size, self.batch_workers.size)[0],
            widest=max(recipe.hidden, n_clusters),
        )
        self.dtype: torch.dtype = getattr(torch, product_precision(execution.precision, device.type))
        execution = compilable(execution, device.type)
        self._teacher_scores = _fused(passes.teacher_scores, execution.compiled)
        self._teach = _fused(passes.teach_unheld, True) if execution.compiled else passes.teach
        self._student_losses = _fused(passes.student_losses, execution.compiled)
        sizes = {"dim": features.shape[1], "n_clusters": n_clusters, "chunk": self.chunk}
        self.networks = Networks(recipe, seed=seed, device=device, workers=self.head_workers, **sizes)

    def run_epoch(self) -> EpochLosses:
        """One pass over the images in random order (the last incomplete batch is dropped)."""
        device = self.features.device
        # The same numbers on every worker: each draws for the whole batch.
        generator = torch.Generator(device).manual_seed(derived_seed(self.seed, 1, self.epoch))
        order = torch.randperm(len(self.features), generator=generator, device=device)
        sums = torch.zeros(len(self.networks.marginal), 2, device=device)
        for i in range(self.steps_per_epoch):
            anchors = order[i * self.batch_size : (i + 1) * self.batch_size]
            partners = self.draw(anchors, generator)
            sums += torch.stack(self.step(anchors, partners, self.epoch * self.steps_per_epoch + i), dim=1)
        self.epoch += 1
        self.batch_workers.all_reduce(sums)
        return EpochLosses(*(self.networks.gather_heads(sums) / self.steps_per_epoch).unbind(1))

    def draw(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """One uniform neighbour of each anchor, `smoothing_neighbors` times: int64[M, B]."""
        size = (self.recipe.smoothing_neighbors, len(anchors))
        uniform = torch.rand(size, generator=generator, device=anchors.device)
        starts = self.neighbors.offsets[anchors]
        counts = self.neighbors.offsets[anchors + 1] - starts
        # float32 rounds counts beyond 2^24, and u * count may then reach count.
        place = torch.minimum((uniform * counts).long(), counts - 1)
        return self.neighbors.ids[starts + place].long()

    def step(self, anchors: Tensor, partners: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One optimiser step on the anchors int64[B] of all workers and their drawn neighbours int64[M, B].

        Returns what this worker's pairs and heads give to the TEMI and the CE loss: float32[own heads] each, still on
        the device. Their sums over workers that share a batch are the means over it.
        """
        recipe, own = self.recipe, share(len(anchors), self.batch_workers)
        pairs = own.stop - own.start
        statistics = (self.mean, self.std) if recipe.input_norm == "standardize" else None
        x = batch_inputs(self.features, anchors, partners, own, statistics=statistics).to(self.dtype)
        targets, weight = self._targets(x, pairs, len(anchors))
        ramp = losses.ce_weight(step, recipe.epochs * self.steps_per_epoch, recipe.ce_weight)
        # A tensor, filled on the device: as a number it would be compiled into the pass, anew at every step.
        ramp = torch.full((), ramp, device=x.device) if recipe.ce_weight else None
        marginals = self.networks.marginal.split(self.chunk)
        chunk_losses, waits = [], []
        for chunk, target, marginal in zip(self.networks.student, targets, marginals, strict=True):
            loss, *parts = self._student_losses(
                recipe, chunk, x[: 2 * pairs], target, marginal=marginal, weight=weight, ramp=ramp, pairs=len(anchors)
            )
            loss.backward()
            # Exchanged while the next chunk is computed.
            waits.append(start_gradient_reduce(list(chunk.parameters.values()), self.batch_workers))
            chunk_losses.append(parts)
        for wait in waits:
            wait()
        self.networks.update(self.learning_rate(step), step)
        temi, cross_entropy = (torch.cat(parts) for parts in zip(*chunk_losses, strict=True))
        return temi, cross_entropy

    @torch.no_grad()
    def _targets(self, x: Tensor, pairs: int, batch: int) -> tuple[list[Tensor | Assigned], Tensor]:
        """What the students of each chunk learn from, and w(x, x') over all heads, float32[pairs].

        Inputs `x` are the own anchors of a batch and then M neighbours of each. Also moves the class marginal.
        """
        recipe, targets = self.recipe, []
        # Neighbours first: each row then stands where the student's row that learns from it does.
        taught = self._taught(torch.cat([x[pairs:], x[:pairs]]), pairs)
        masses = all_reduce([mass for _, mass, _ in taught], self.batch_workers)
        weight = torch.zeros(pairs, device=x.device)
        for (target, _, agreement), mass, marginal in zip(
            taught, masses, self.networks.marginal.split(self.chunk), strict=True
        ):
            marginal.lerp_(mass / ((1 + recipe.smoothing_neighbors) * batch), 1.0 - recipe.marginal_momentum)
            weight += agreement
            targets.append(target)
        self.head_workers.all_reduce(weight)
        return targets, weight / recipe.heads

    def _taught(self, x: Tensor, pairs: int) -> list[Taught]:
        """Teachers' targets of each chunk for inputs [rows, D]; moves the estimate of the class prior."""
        recipe, networks = self.recipe, self.networks
        if not recipe.unbalanced and (recipe.teacher == "softmax" or self.batch_workers.size == 1):
            return [self._teach(recipe, chunk, x, pairs) for chunk in networks.teacher]
        scores = [self._teacher_scores(recipe, chunk, x) for chunk in networks.teacher]
        return [passes.taught(recipe, probabilities, pairs) for probabilities in self._assignments(scores)]

    def _assignments(self, scores: list[Tensor]) -> list[Tensor]:
        """Teacher probabilities of each chunk, float32[h, rows, K], where chunks or workers exchange sums for them."""
        recipe, networks, iterations = self.recipe, self.networks, self.recipe.sinkhorn_iterations
        if not recipe.unbalanced:
            return losses.sinkhorn(scores, self.batch_workers, iterations=iterations)
        priors, strength = networks.prior.split(self.chunk), recipe.prior_strength
        floored = [losses.floored(prior) for prior in priors]
        chunks, masses = losses.unbalanced_sinkhorn(
            scores, floored, self.batch_workers, iterations=iterations, strength=strength
        )
        if recipe.cluster_prior == "estimated":
            for prior, mass in zip(priors, masses, strict=True):
                prior.lerp_(mass / mass.sum(1, keepdim=True), 1.0 - recipe.prior_momentum)
        return chunks

    def learning_rate(self, step: int) -> float:
        """`learning_rate * B / 256`, reached linearly over the warm-up epochs, then constant (TEMI)."""
        warmup = self.recipe.warmup_epochs * self.steps_per_epoch
        return self.recipe.learning_rate * self.batch_size / 256 * min(1.0, (step + 1) / max(1, warmup))

    def labels(self, features: Tensor, teacher: HeadBank | None = None) -> Tensor:
        """Cluster of each row of `features` [n, D] under each head's teacher, int32[n, H], in float32.

        `teacher` is `gather_teacher()`, to gather it once for many blocks.
        """
        return (teacher or self.gather_teacher()).labels((features.float() - self.mean) / self.std)

    def gather_teacher(self) -> HeadBank:
        """Teachers of all heads, whichever worker trains them."""
        return self.networks.gather_teacher()

    def state(self) -> dict[str, Tensor]:
        """Everything a restart needs, as named tensors of all heads: parameters, moments, class marginal, epoch."""
        return self.networks.state() | {"epoch": torch.tensor(self.epoch)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, whatever the chunks, the workers and the parallelism it was saved from."""
        self.epoch = int(state["epoch"])
        self.networks.restore(state, self.epoch * self.steps_per_epoch)

    def check_same_epoch(self) -> None:
        """Raise RuntimeError unless all workers are at one epoch: they read their states one by one."""
        own = torch.tensor([self.epoch], device=self.features.device)
        epochs = self.workers.all_gather(own, [1] * self.workers.size).tolist()
        if len(set(epochs)) > 1:
            raise RuntimeError(f"workers are at epochs {epochs}; restore all of them from one state")


def feature_statistics(features: Tensor, block_rows: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all images, float32[D] each, summed in float64.

    They standardise the inputs (TEMI) and, with batch normalisation, stand for the running statistics when labels are
    given: the features are frozen, so what a running average would approach is known.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    square = torch.zeros_like(total)
    for block in features.split(block_rows):
        wide = block.double()
        total += wide.sum(0)
        square += wide.square().sum(0)
    mean = total / len(features)
    variance = (square / len(features) - mean.square()).clamp_min_(0)
    return mean.float(), (variance + BATCH_NORM_EPS).sqrt().float()


def batch_inputs(
    features: Tensor, anchors: Tensor, partners: Tensor, own: slice, *, statistics: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Normalised features of the anchors `own` of int64[B] and then of their M partners of int64[M, B], float32.

    `statistics` are mean and standard deviation to use; without them those of the whole batch, both views. Every worker
    holds all features and knows the whole batch, so it sums these by itself: reading 2 B rows costs far less than the
    products of the heads, and the result is the same to the bit on any number of workers.
    """
    rows = torch.cat([anchors[None], partners])
    if statistics is not None:
        mean, std = statistics
        return (features[rows[:, own].reshape(-1)].float() - mean) / std
    x = features[rows.reshape(-1)].float()
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    x = x.view(*rows.shape, -1)[:, own].flatten(0, 1)
    return (x - mean) * (variance + BATCH_NORM_EPS).rsqrt()


def _fused(function: Function, compiled: bool) -> Function:
    """By torch.compile; all steps have the same shapes, as the last, incomplete batch is dropped.

    Inductor would choose among kernels for reductions by timing them, and a restart might choose others, which sum in
    another order; `deterministic` lets it choose by rule.
    """
    if not compiled:
        return function
    return cast(Function, torch.compile(function, dynamic=False, options={"deterministic": True}))
