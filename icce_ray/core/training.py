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

from icce_ray.core import losses
from icce_ray.core.collectives import (
    SINGLE_PROCESS,
    Collectives,
    all_reduce,
    share,
    shares,
    start_gradient_reduce,
)
from icce_ray.core.heads import HeadBank, HeadChunk, Networks, derived_seed, heads_per_chunk
from icce_ray.core.neighbors import Neighbors
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
        self._teacher_scores = _fused(_teacher_scores, execution.compiled)
        self._teacher_probabilities = _fused(_teacher_probabilities, execution.compiled)
        self._student_losses = _fused(_student_losses, execution.compiled)
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
        marginals = self.networks.marginal.split(self.chunk)
        chunk_losses, waits = [], []
        for chunk, target, marginal in zip(self.networks.student, targets, marginals, strict=True):
            temi, cross_entropy = self._student_losses(
                recipe, chunk, x[: 2 * pairs], target, marginal=marginal, weight=weight, pairs=len(anchors)
            )
            loss = temi.sum() + ramp * cross_entropy.sum() if recipe.ce_weight else temi.sum()
            (loss / recipe.heads).backward()
            # Exchanged while the next chunk is computed.
            waits.append(start_gradient_reduce(list(chunk.parameters.values()), self.batch_workers))
            chunk_losses.append((temi.detach(), cross_entropy.detach()))
        for wait in waits:
            wait()
        self.networks.update(self.learning_rate(step), step)
        temi, cross_entropy = (torch.cat(parts) for parts in zip(*chunk_losses, strict=True))
        return temi, cross_entropy

    @torch.no_grad()
    def _targets(self, x: Tensor, pairs: int, batch: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Teacher targets of each chunk for x and for x', and w(x, x') over all heads, float32[pairs].

        Inputs `x` are the own anchors of a batch and then M neighbours of each. The target an anchor learns from is
        the mean over its M neighbours (multiple-neighbour smoothing; M = 1 is the plain neighbour). Also moves the
        class marginal.
        """
        recipe, targets = self.recipe, []
        chunks = self._assignments(x)
        masses = all_reduce([probabilities.sum(1) for probabilities in chunks], self.batch_workers)
        weight = torch.zeros(pairs, device=x.device)
        marginals = self.networks.marginal.split(self.chunk)
        for probabilities, mass, marginal in zip(chunks, masses, marginals, strict=True):
            marginal.lerp_(mass / ((1 + recipe.smoothing_neighbors) * batch), 1.0 - recipe.marginal_momentum)
            target_x = probabilities[:, :pairs]
            target_n = probabilities[:, pairs:].unflatten(1, (recipe.smoothing_neighbors, pairs)).mean(1)
            weight += losses.pair_weight(target_x, target_n)
            targets.append((target_x, target_n))
        self.head_workers.all_reduce(weight)
        return targets, weight / recipe.heads

    def _assignments(self, x: Tensor) -> list[Tensor]:
        """Teacher probabilities of each chunk, float32[h, rows, K]; moves the estimate of the class prior."""
        recipe, networks, iterations = self.recipe, self.networks, self.recipe.sinkhorn_iterations
        if not recipe.unbalanced and (recipe.teacher == "softmax" or self.batch_workers.size == 1):
            return [self._teacher_probabilities(recipe, chunk, x) for chunk in networks.teacher]
        scores = [self._teacher_scores(recipe, chunk, x) for chunk in networks.teacher]
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


# The forward passes of one chunk, where a step spends its time, and which torch.compile may fuse.


def _fused(function: Function, compiled: bool) -> Function:
    """By torch.compile; all steps have the same shapes, as the last, incomplete batch is dropped.

    Inductor would choose among kernels for reductions by timing them, and a restart might choose others, which sum in
    another order; `deterministic` lets it choose by rule.
    """
    if not compiled:
        return function
    return cast(Function, torch.compile(function, dynamic=False, options={"deterministic": True}))


def _teacher_scores(recipe: Recipe, chunk: HeadChunk, x: Tensor) -> Tensor:
    """Logits of teachers over their temperature, float32[h, rows, K], of inputs [rows, D]."""
    return chunk.logits(x, temperature=recipe.teacher_temperature)


def _teacher_probabilities(recipe: Recipe, chunk: HeadChunk, x: Tensor) -> Tensor:
    """Teacher probabilities of each row, float32[h, rows, K], where the rows are the whole batch."""
    scores = _teacher_scores(recipe, chunk, x)
    if recipe.teacher == "sinkhorn":
        return losses.sinkhorn([scores], SINGLE_PROCESS, iterations=recipe.sinkhorn_iterations)[0]
    return scores.softmax(-1)


def _student_losses(
    recipe: Recipe,
    chunk: HeadChunk,
    x: Tensor,
    targets: tuple[Tensor, Tensor],
    *,
    marginal: Tensor,
    weight: Tensor,
    pairs: int,
) -> tuple[Tensor, Tensor]:
    """TEMI and CE loss of students, float32[h] each, the latter zero where the recipe leaves it out.

    `x` [2 b, D] are anchors, then one neighbour of each; `targets` the teacher's probabilities of both, [h, b, K];
    means are over `pairs` pairs, those of the whole batch.
    """
    student = chunk.logits(x, temperature=recipe.student_temperature).log_softmax(-1)
    half = len(x) // 2
    views = student[:, :half], student[:, half:]
    temi = losses.temi_loss(views, targets, marginal=marginal, weight=weight, beta=recipe.beta, pairs=pairs)
    if not recipe.ce_weight:
        return temi, torch.zeros_like(temi)
    return temi, losses.cross_entropy_loss(views, targets, pairs=pairs)
