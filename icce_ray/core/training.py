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
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from icce_ray.core import objectives
from icce_ray.core.collectives import ALONE, Collectives, share, shares, sum_gradients_later, sum_together
from icce_ray.core.heads import HeadBank, derived_seed, heads_per_chunk
from icce_ray.core.inputs import batch_inputs, feature_statistics
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.networks import Networks
from icce_ray.core.passes import Passes
from icce_ray.core.recipe import Precision, Recipe, product_precision
from icce_ray.core.sinkhorn import floored, relaxed_sinkhorn_together, sinkhorn_together

Parallelism = Literal["heads", "data"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class EpochLosses:
    """Mean losses of one epoch over all images, each float32[H] on the training device."""

    temi: Tensor
    cross_entropy: Tensor


def _fused(function: Callable[P, R], compiled: bool) -> Callable[P, R]:
    """The same function, by torch.compile; all steps have the same shapes, as the last, incomplete batch is dropped."""
    return torch.compile(function, dynamic=False) if compiled else function


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
        chunk: int | None = None,
        workers: Collectives = ALONE,
        parallelism: Parallelism = "heads",
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> None:
        """`precision` is that of the products; `auto` is bfloat16 on CUDA. `compiled` lets torch.compile fuse passes.

        Raises ValueError if a row has no neighbour, the lists are not those of the features, or a worker has no head.
        """
        if len(neighbors.counts) != len(features):
            raise ValueError(f"{len(neighbors.counts)} neighbour lists for {len(features)} features; they must match")
        if bool((neighbors.counts == 0).any()):
            raise ValueError("an image has no neighbour; mine with k_min >= 1")
        if parallelism == "heads" and workers.size > recipe.heads:
            raise ValueError(f"{workers.size} workers for {recipe.heads} heads; take at most {recipe.heads} workers")
        self.features, self.neighbors = features, neighbors
        self.recipe, self.n_clusters, self.seed = recipe, n_clusters, seed
        self.batch_size = min(recipe.batch_size, len(features))
        self.steps_per_epoch = len(features) // self.batch_size
        self.epoch = 0
        self.mean, self.std = feature_statistics(features)
        # Who the heads are shared with, and who the pairs of a batch; at most one of them is not this process alone.
        self.workers = workers
        self.over_heads = workers if parallelism == "heads" else ALONE
        self.over_batch = workers if parallelism == "data" else ALONE
        self.chunk = chunk or self._fitting_chunk()
        self._choose_passes(precision, compiled)
        self.networks = Networks(
            recipe,
            dim=features.shape[1],
            n_clusters=n_clusters,
            seed=seed,
            chunk=self.chunk,
            device=features.device,
            workers=self.over_heads,
        )

    def _fitting_chunk(self) -> int:
        """Heads a product, for the heads and the rows of the largest share."""
        pairs = shares(self.batch_size, self.over_batch.size)[0]
        return heads_per_chunk(
            self.features.device,
            n_heads=shares(self.recipe.heads, self.over_heads.size)[0],
            rows=(1 + self.recipe.smoothing_neighbors) * pairs,
            widest=max(self.recipe.hidden, self.n_clusters),
        )

    def _choose_passes(self, precision: Precision, compiled: bool) -> None:
        passes = Passes(self.recipe)
        self.dtype: torch.dtype = getattr(torch, product_precision(precision, self.features.device.type))
        self._scores = _fused(passes.scores, compiled)
        self._probabilities = _fused(passes.probabilities, compiled)
        self._losses = _fused(passes.losses, compiled)

    # -- one epoch ---------------------------------------------------------------------------------------------

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
        self.over_batch.sum(sums, "losses")
        return EpochLosses(*(self.networks.all_heads(sums, "losses") / self.steps_per_epoch).unbind(1))

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
        recipe, own = self.recipe, share(len(anchors), self.over_batch)
        pairs = own.stop - own.start
        statistics = (self.mean, self.std) if recipe.input_norm == "standardize" else None
        x = batch_inputs(self.features, anchors, partners, own, statistics=statistics).to(self.dtype)
        targets, weight = self._teach(x, pairs, len(anchors))
        ramp = objectives.ce_weight(step, recipe.epochs * self.steps_per_epoch, recipe.ce_weight)
        marginals = self.networks.marginal.split(self.chunk)
        found, waits = [], []
        for chunk, target, marginal in zip(self.networks.student, targets, marginals, strict=True):
            temi, cross_entropy = self._losses(
                chunk, x[: 2 * pairs], target, marginal=marginal, weight=weight, pairs=len(anchors)
            )
            loss = temi.sum() + ramp * cross_entropy.sum() if recipe.ce_weight else temi.sum()
            (loss / recipe.heads).backward()
            # On its way while the next chunk is computed.
            waits.append(sum_gradients_later(list(chunk.parameters.values()), self.over_batch))
            found.append((temi.detach(), cross_entropy.detach()))
        for wait in waits:
            wait()
        self.networks.update(self.learning_rate(step), step)
        temi, cross_entropy = (torch.cat(losses) for losses in zip(*found, strict=True))
        return temi, cross_entropy

    @torch.no_grad()
    def _teach(self, x: Tensor, pairs: int, batch: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Teacher targets of each chunk for x and for x', and w(x, x') over all heads, float32[pairs].

        Inputs `x` are the own anchors of a batch and then M neighbours of each. The target an anchor learns from is
        the mean over its M neighbours (multiple-neighbour smoothing; M = 1 is the plain neighbour). Also moves the
        class marginal.
        """
        recipe, targets = self.recipe, []
        if recipe.relaxed:
            found = self._lean([self._scores(chunk, x) for chunk in self.networks.teacher])
        elif recipe.teacher == "sinkhorn" and self.over_batch.size > 1:
            scores = [self._scores(chunk, x) for chunk in self.networks.teacher]
            found = sinkhorn_together(scores, self.over_batch, iterations=recipe.sinkhorn_iterations)
        else:
            found = [self._probabilities(chunk, x) for chunk in self.networks.teacher]
        masses = sum_together([one.sum(1) for one in found], self.over_batch, "marginal")
        weight = torch.zeros(pairs, device=x.device)
        marginals = self.networks.marginal.split(self.chunk)
        for probabilities, mass, marginal in zip(found, masses, marginals, strict=True):
            marginal.lerp_(mass / ((1 + recipe.smoothing_neighbors) * batch), 1.0 - recipe.marginal_momentum)
            target_x = probabilities[:, :pairs]
            target_n = probabilities[:, pairs:].unflatten(1, (recipe.smoothing_neighbors, pairs)).mean(1)
            weight += objectives.pair_weight(target_x, target_n)
            targets.append((target_x, target_n))
        self.over_heads.sum(weight, "weight")
        return targets, weight / recipe.heads

    def _lean(self, scores: list[Tensor]) -> list[Tensor]:
        """Teacher probabilities that lean towards the class prior, float32[h, rows, K]; moves the prior's estimate."""
        recipe, priors = self.recipe, self.networks.prior.split(self.chunk)
        found, masses = relaxed_sinkhorn_together(
            scores,
            [floored(prior) for prior in priors],
            self.over_batch,
            iterations=recipe.sinkhorn_iterations,
            strength=recipe.prior_strength,
        )
        if recipe.cluster_prior == "estimated":
            for prior, mass in zip(priors, masses, strict=True):
                prior.lerp_(mass / mass.sum(1, keepdim=True), 1.0 - recipe.prior_momentum)
        return found

    def learning_rate(self, step: int) -> float:
        """`learning_rate * B / 256`, reached linearly over the warm-up epochs, then constant (TEMI)."""
        warmup = self.recipe.warmup_epochs * self.steps_per_epoch
        return self.recipe.learning_rate * self.batch_size / 256 * min(1.0, (step + 1) / max(1, warmup))

    # -- results and state -------------------------------------------------------------------------------------

    def labels(self, features: Tensor, teacher: HeadBank | None = None) -> Tensor:
        """Cluster of each row of `features` [n, D] under each head's teacher, int32[n, H], in float32.

        `teacher` is `whole_teacher()` for whoever labels many blocks.
        """
        return (teacher or self.whole_teacher()).labels((features.float() - self.mean) / self.std)

    def whole_teacher(self) -> HeadBank:
        """Teachers of all heads, whoever trains them."""
        return self.networks.whole_teacher()

    def state(self) -> dict[str, Tensor]:
        """Everything a restart needs, as named tensors of all heads: parameters, moments, class marginal, epoch."""
        return self.networks.state() | {"epoch": torch.tensor(self.epoch)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, whatever the chunks, the workers and the parallelism it was saved from."""
        self.epoch = int(state["epoch"])
        self.networks.restore(state, self.epoch * self.steps_per_epoch)

    def check_together(self) -> None:
        """Raise RuntimeError unless all workers stand at one epoch: they read their states one by one."""
        own = torch.tensor([self.epoch], device=self.features.device)
        epochs = self.workers.gather(own, [1] * self.workers.size, "state").tolist()
        if len(set(epochs)) > 1:
            raise RuntimeError(f"workers stand at epochs {epochs}; restore all of them from one state")
