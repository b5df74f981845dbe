"""Training of the clustering heads (paper 3.1: TEMI with batch norm, Sinkhorn teacher and a CE term).

Everything a step touches lives on one device: features, ragged neighbour lists, parameters, random numbers, loss sums.
Nothing in a step reads a value back to the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from icce_ray.core import objectives
from icce_ray.core.heads import PARAMETERS, HeadBank, derived_seed, heads_per_chunk, initialise
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Recipe
from icce_ray.core.sinkhorn import sinkhorn

BATCH_NORM_EPS = 1e-5
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


@dataclass(frozen=True)
class EpochLosses:
    """Mean losses of one epoch, each float32[H] on the training device."""

    temi: Tensor
    cross_entropy: Tensor


def feature_statistics(features: Tensor, block_rows: int = 65536) -> tuple[Tensor, Tensor]:
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


class HeadTrainer:
    """Student and teacher heads over frozen features, trained epoch by epoch.

    `features` is [N, D] float16 or float32, `neighbors` the lists of its N rows, on the same device, which is
    where everything runs. Every random number comes from (seed, epoch) or (seed, head): a trainer restored at an
    epoch goes on exactly as if it had never stopped.
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
    ) -> None:
        """Raises ValueError if a row has no neighbour or the lists are not those of the features."""
        if len(neighbors.counts) != len(features):
            raise ValueError(f"{len(neighbors.counts)} neighbour lists for {len(features)} features; they must match")
        if bool((neighbors.counts == 0).any()):
            raise ValueError("an image has no neighbour; mine with k_min >= 1")
        self.features, self.neighbors = features, neighbors
        self.recipe, self.n_clusters, self.seed = recipe, n_clusters, seed
        self.batch_size = min(recipe.batch_size, len(features))
        self.steps_per_epoch = len(features) // self.batch_size
        self.epoch = 0
        device = features.device
        self.mean, self.std = feature_statistics(features)
        rows = (1 + recipe.smoothing_neighbors) * self.batch_size
        self.chunk = chunk or heads_per_chunk(
            device, n_heads=recipe.heads, rows=rows, widest=max(recipe.hidden, n_clusters)
        )
        fresh = initialise(
            range(recipe.heads),
            dim=features.shape[1],
            n_clusters=n_clusters,
            hidden=recipe.hidden,
            bottleneck=recipe.bottleneck,
            seed=seed,
        )
        self._adopt({name: tensor.to(device) for name, tensor in fresh.items()})
        self.teacher = self.student.copy()
        self.marginal = torch.full((recipe.heads, n_clusters), 1.0 / n_clusters, device=device)

    def _adopt(self, parameters: dict[str, Tensor]) -> None:
        """Make these parameters the student, with an optimiser of its own."""
        self.student = HeadBank(parameters, chunk=self.chunk)
        for tensor in self.student.tensors():
            tensor.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.student.tensors(), lr=0.0, weight_decay=self.recipe.weight_decay, fused=True
        )
        self._ema = get_ema_multi_avg_fn(self.recipe.teacher_momentum)

    # -- one epoch ---------------------------------------------------------------------------------------------

    def run_epoch(self) -> EpochLosses:
        """One pass over the images in random order (the last incomplete batch is dropped)."""
        generator = torch.Generator(self.features.device).manual_seed(derived_seed(self.seed, 1, self.epoch))
        order = torch.randperm(len(self.features), generator=generator, device=self.features.device)
        temi = torch.zeros(self.recipe.heads, device=self.features.device)
        cross_entropy = torch.zeros_like(temi)
        for i in range(self.steps_per_epoch):
            anchors = order[i * self.batch_size : (i + 1) * self.batch_size]
            step_temi, step_ce = self.step(
                anchors, self.draw(anchors, generator), self.epoch * self.steps_per_epoch + i
            )
            temi += step_temi
            cross_entropy += step_ce
        self.epoch += 1
        return EpochLosses(temi / self.steps_per_epoch, cross_entropy / self.steps_per_epoch)

    def draw(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """One uniform neighbour of each anchor, `smoothing_neighbors` times: int64[M, B]."""
        size = (self.recipe.smoothing_neighbors, len(anchors))
        uniform = torch.rand(size, generator=generator, device=anchors.device)
        starts = self.neighbors.offsets[anchors]
        counts = self.neighbors.offsets[anchors + 1] - starts
        # float32 rounds counts beyond 2^24, and u * count may then reach count.
        place = torch.minimum((uniform * counts).long(), counts - 1)
        return self.neighbors.ids[starts + place].long()

    def inputs(self, rows: Tensor) -> Tensor:
        """Normalised features of these rows, by batch statistics or by those of all images, float32."""
        x = self.features[rows].float()
        if self.recipe.input_norm == "standardize":
            return (x - self.mean) / self.std
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        return (x - mean) * (variance + BATCH_NORM_EPS).rsqrt()

    def step(self, anchors: Tensor, partners: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One optimiser step on anchors int64[B] and their drawn neighbours int64[M, B].

        Returns the TEMI and the CE loss of each head, float32[H], still on the device.
        """
        recipe, batch = self.recipe, len(anchors)
        x = self.inputs(torch.cat([anchors, partners.reshape(-1)]))
        targets, weight = self._teach(x, batch)
        ramp = objectives.ce_weight(step, recipe.epochs * self.steps_per_epoch, recipe.ce_weight)
        temi, cross_entropy = [], []
        first = 0
        for chunk, (target_x, target_n) in zip(self.student, targets, strict=True):
            student = objectives.log_probabilities(chunk.logits(x[: 2 * batch]), recipe.student_temperature)
            views = (student[:, :batch], student[:, batch:], target_x, target_n)
            marginal = self.marginal[first : first + len(chunk)]
            chunk_temi = objectives.temi_loss(*views, marginal=marginal, weight=weight, beta=recipe.beta)
            loss = chunk_temi.sum()
            if recipe.ce_weight:
                chunk_ce = objectives.cross_entropy_loss(*views)
                loss = loss + ramp * chunk_ce.sum()
            else:
                chunk_ce = torch.zeros_like(chunk_temi)
            (loss / recipe.heads).backward()
            temi.append(chunk_temi.detach())
            cross_entropy.append(chunk_ce.detach())
            first += len(chunk)
        self._update(step)
        return torch.cat(temi), torch.cat(cross_entropy)

    @torch.no_grad()
    def _teach(self, x: Tensor, batch: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Teacher targets of each chunk for x and for x', and w(x, x') over all heads, float32[B].

        Inputs `x` are the anchors and then M neighbours of each. The target an anchor learns from is the mean over its
        M neighbours (multiple-neighbour smoothing; M = 1 is the plain neighbour). Also moves the class marginal.
        """
        recipe, targets, first = self.recipe, [], 0
        weight = torch.zeros(batch, device=x.device)
        for chunk in self.teacher:
            scores = chunk.logits(x) / recipe.teacher_temperature
            if recipe.teacher == "sinkhorn":
                probabilities = sinkhorn(scores, iterations=recipe.sinkhorn_iterations)
            else:
                probabilities = scores.softmax(-1)
            marginal = self.marginal[first : first + len(chunk)]
            marginal.lerp_(probabilities.mean(1), 1.0 - recipe.marginal_momentum)
            target_x = probabilities[:, :batch]
            target_n = probabilities[:, batch:].unflatten(1, (recipe.smoothing_neighbors, batch)).mean(1)
            weight += objectives.pair_weight(target_x, target_n)
            targets.append((target_x, target_n))
            first += len(chunk)
        return targets, weight / recipe.heads

    def _update(self, step: int) -> None:
        """AdamW at the scheduled learning rate, then the teacher's moving average."""
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._ema(self.teacher.tensors(), self.student.tensors(), step)

    def learning_rate(self, step: int) -> float:
        """`learning_rate * B / 256`, reached linearly over the warm-up epochs, then constant (TEMI)."""
        warmup = self.recipe.warmup_epochs * self.steps_per_epoch
        return self.recipe.learning_rate * self.batch_size / 256 * min(1.0, (step + 1) / max(1, warmup))

    # -- results and state -------------------------------------------------------------------------------------

    def labels(self, features: Tensor) -> Tensor:
        """Cluster of each row of `features` [n, D] under each head's teacher, int32[n, H]."""
        return self.teacher.labels((features.float() - self.mean) / self.std)

    def state(self) -> dict[str, Tensor]:
        """Everything a restart needs, as named tensors: parameters, moments, class marginal, epoch."""
        state = {f"student.{name}": tensor for name, tensor in self.student.stacked().items()}
        state |= {f"teacher.{name}": tensor for name, tensor in self.teacher.stacked().items()}
        for moment in MOMENTS:
            for name in PARAMETERS:
                held = [self._moment(chunk.parameters[name], moment) for chunk in self.student]
                state[f"{moment}.{name}"] = torch.cat(held)
        return state | {"marginal": self.marginal.clone(), "epoch": torch.tensor(self.epoch)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, whatever the chunks it was saved from."""
        device = self.features.device

        def bank(prefix: str) -> HeadBank:
            stacked = {name: state[f"{prefix}.{name}"].to(device) for name in PARAMETERS}
            return HeadBank(stacked, chunk=self.chunk)

        self.epoch = int(state["epoch"])
        self.marginal = state["marginal"].to(device, copy=True)  # it is updated in place
        self._adopt(bank("student").stacked())
        self.teacher = bank("teacher")
        steps = torch.tensor(float(self.epoch * self.steps_per_epoch), device=device)
        moments = [bank(moment).tensors() for moment in MOMENTS]
        for parameter, *held in zip(self.student.tensors(), *moments, strict=True):
            self.optimizer.state[parameter] = dict(zip(MOMENTS, held, strict=True)) | {"step": steps.clone()}

    def _moment(self, parameter: Tensor, moment: str) -> Tensor:
        held = self.optimizer.state.get(parameter)
        return held[moment] if held else torch.zeros_like(parameter, requires_grad=False)
