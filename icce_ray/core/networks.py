"""Student, teacher, optimiser and class marginals of the heads that one worker trains, and their state as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from icce_ray.core.collectives import Collectives, share, shares
from icce_ray.core.heads import PARAMETERS, HeadBank, initialise
from icce_ray.core.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


class Networks:
    """What training changes. `workers` share the heads: each holds its own, and a state is of all.

    `student` and `teacher` are banks of the own heads, `marginal` float32[own heads, K] and, where the recipe estimates
    it, `prior` as well: the moving mean of the teacher's plain softmax.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        dim: int,
        n_clusters: int,
        seed: int,
        chunk: int,
        device: torch.device,
        workers: Collectives,
    ) -> None:
        self.recipe, self.chunk, self.device, self.workers = recipe, chunk, device, workers
        self.own = share(recipe.heads, workers)
        fresh = initialise(
            range(self.own.start, self.own.stop),
            dim=dim,
            n_clusters=n_clusters,
            hidden=recipe.hidden,
            bottleneck=recipe.bottleneck,
            seed=seed,
        )
        self._adopt({name: tensor.to(device) for name, tensor in fresh.items()})
        self.teacher = self.student.copy()
        self.marginal = torch.full((self.own.stop - self.own.start, n_clusters), 1.0 / n_clusters, device=device)
        self.prior = self.marginal.clone()
        self._ema = get_ema_multi_avg_fn(recipe.teacher_momentum)

    def _adopt(self, parameters: dict[str, Tensor]) -> None:
        """Make these parameters the student, with an optimiser of its own."""
        self.student = HeadBank(parameters, chunk=self.chunk)
        for tensor in self.student.tensors():
            tensor.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.student.tensors(), lr=0.0, weight_decay=self.recipe.weight_decay, fused=True
        )

    def update(self, learning_rate: float, step: int) -> None:
        """AdamW on the gradients that are there, then the teacher's moving average."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._ema(self.teacher.tensors(), self.student.tensors(), step)

    def all_heads(self, tensor: Tensor, purpose: str) -> Tensor:
        """Rows of the own heads to rows of all heads, [H, ...]."""
        return self.workers.gather(tensor, shares(self.recipe.heads, self.workers.size), purpose)

    def whole_teacher(self) -> HeadBank:
        """The teachers of all heads; `teacher` itself where nobody else has any."""
        if self.workers.size == 1:
            return self.teacher
        stacked = self.teacher.stacked()
        return HeadBank({name: self.all_heads(one, "state") for name, one in stacked.items()}, chunk=self.chunk)

    def state(self) -> dict[str, Tensor]:
        """Parameters, moments and class marginals of all heads, as named tensors of their own memory."""
        state = {f"student.{name}": tensor for name, tensor in self.student.stacked().items()}
        state |= {f"teacher.{name}": tensor for name, tensor in self.teacher.stacked().items()}
        for moment in MOMENTS:
            for name in PARAMETERS:
                held = [self._moment(chunk.parameters[name], moment) for chunk in self.student]
                state[f"{moment}.{name}"] = torch.cat(held)
        state["marginal"] = self.marginal.clone()
        if self.recipe.cluster_prior == "estimated":
            state["prior"] = self.prior.clone()
        return {name: self.all_heads(tensor, "state") for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take the own heads out of a `state`, which `steps` optimiser steps have led to."""

        def bank(prefix: str) -> HeadBank:
            stacked = {name: state[f"{prefix}.{name}"][self.own].to(self.device) for name in PARAMETERS}
            return HeadBank(stacked, chunk=self.chunk)

        self.marginal = state["marginal"][self.own].to(self.device, copy=True)  # it is updated in place
        if self.recipe.cluster_prior == "estimated":
            self.prior = state["prior"][self.own].to(self.device, copy=True)
        self._adopt(bank("student").stacked())
        self.teacher = bank("teacher")
        count = torch.tensor(float(steps), device=self.device)
        moments = [bank(moment).tensors() for moment in MOMENTS]
        for parameter, *held in zip(self.student.tensors(), *moments, strict=True):
            self.optimizer.state[parameter] = dict(zip(MOMENTS, held, strict=True)) | {"step": count.clone()}

    def _moment(self, parameter: Tensor, moment: str) -> Tensor:
        held = self.optimizer.state.get(parameter)
        return held[moment] if held else torch.zeros_like(parameter, requires_grad=False)
