"""Clustering heads in batched tensors (paper 3.1; the head of TEMI): forward pass, student and teacher.

A head is Linear(D, 512) - GELU - Linear(512, 256) - L2 normalise - weight-normalised Linear(256, K) without bias. The
scale of the weight normalisation is fixed at one (ours; DINO's `norm_last_layer`): logits are cosines in [-1, 1]
and the temperature alone decides their range.

Heads are held in chunks. One chunk is a few large matrix products where a loop over modules is many small ones; on
a CPU a chunk must also stay in the cache, so its size follows the device (`heads_per_chunk`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.optim.swa_utils import get_ema_multi_avg_fn

from icce_ray.core.collectives import Collectives, share, shares
from icce_ray.core.recipe import Precision, Recipe, product_precision

#: Names of the parameters of a stack of h heads, in the order of `head_shapes`.
PARAMETERS = ("hidden.weight", "hidden.bias", "bottleneck.weight", "bottleneck.bias", "prototypes")
#: What AdamW keeps of each parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")
#: Passes of a step over the logits of all heads and rows: tensors of that shape read or written, counted by
#: jobs/bench/passes.py. Fused by torch.compile they are in the type of the products, else nearly all in float32.
FUSED_PASSES, PLAIN_PASSES = 15, 60
#: Bytes a step moves for each parameter: parameter, gradient and two moments read and written by AdamW, parameter and
#: teacher read and teacher written by the moving average, float32.
UPDATE_BYTES = 11 * 4
_SHORTEST = 1e-12  # as F.normalize: a row of zeros has cosines of zero


def head_shapes(dim: int, hidden: int, bottleneck: int, n_clusters: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of one head, by name."""
    shapes = ((hidden, dim), (hidden,), (bottleneck, hidden), (bottleneck,), (n_clusters, bottleneck))
    return dict(zip(PARAMETERS, shapes, strict=True))


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several integers >= 0 (a seed and an epoch, a seed and a head), as independent streams.

    Their number goes in too: numpy pads with zeros, and (seed, 1) would be the stream of (seed, 1, 0).
    """
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)


class _Cosines(torch.autograd.Function):
    """`rows / |rows| @ unit.T / temperature`; see `cosines`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, unit: Tensor, temperature: float) -> Tensor:
        products, length = _products(rows, unit)
        scaled = products.to(length.dtype).div_(length * temperature)
        ctx.save_for_backward(rows, unit, length, scaled)
        ctx.temperature = temperature
        return scaled

    @staticmethod
    @once_differentiable  # lengths are saved, not differentiated again
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        rows, unit, length, scaled = ctx.saved_tensors
        # The length is in the denominator: the gradient is that of the products, less its part along the row.
        along = torch.linalg.vecdot(grad, scaled)[..., None] / length.square()
        through = (grad / (length * ctx.temperature)).to(rows.dtype)
        to_rows = torch.bmm(through, unit).addcmul_(rows, along.to(rows.dtype), value=-1.0)
        return to_rows, torch.bmm(through.transpose(1, 2), rows), None


def cosines(rows: Tensor, prototypes: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cosines of `rows` [h, n, D] to `prototypes` [h, K, D] over the temperature, [h, n, K].

    The products are computed in the type of `rows`, float32 or bfloat16 (or float64, for tests); lengths, and what is
    returned, are float32 at least. Prototypes may have any type and length.

    `F.normalize` and a product are the same maths; but its backward pass alone reads and writes the rows seven times,
    and in bfloat16 converts them besides: a third of the step. With the gradient written out, the length of a row
    divides its K products instead of its entries, and the backward pass touches the rows once.
    """
    return cast(Tensor, _Cosines.apply(rows, _unit(prototypes, rows), temperature))


def _unit(prototypes: Tensor, rows: Tensor) -> Tensor:
    """Prototypes of length one in the type of `rows`."""
    return F.normalize(prototypes, dim=-1).to(rows.dtype)


def _products(rows: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Products with the unit prototypes [h, n, K], in the type of the rows, and the lengths of these [h, n, 1]."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=wide).clamp_min_(_SHORTEST)
    return torch.bmm(rows, unit.transpose(1, 2)), length


@dataclass
class HeadChunk:
    """Parameters of h heads: each tensor is [h, ...] of `head_shapes`."""

    parameters: dict[str, Tensor]

    def logits(self, x: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Cosines to the prototypes over the temperature, float32[h, rows, K], of inputs `x` [rows, D] all heads share.

        The products and the activation are computed in the type of `x`, float32 or bfloat16; lengths in float32.
        """
        return cosines(self.embeddings(x), self.parameters["prototypes"], temperature=temperature)

    def products(self, x: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        """`logits` as what they are the quotient of: [h, rows, K] in the type of `x`, and float32[h, rows, 1]."""
        rows = self.embeddings(x)
        products, length = _products(rows, _unit(self.parameters["prototypes"], rows))
        return products, length * temperature

    def embeddings(self, x: Tensor) -> Tensor:
        """What is compared to the prototypes, of any length, in the type of `x`, [h, rows, bottleneck]."""
        p = {name: tensor.to(x.dtype) for name, tensor in self.parameters.items() if name != "prototypes"}
        n_heads, hidden, dim = p["hidden.weight"].shape
        # The first layer sees the same input in every head: one product for all of them.
        first = F.gelu(
            torch.addmm(p["hidden.bias"].reshape(-1), x, p["hidden.weight"].reshape(n_heads * hidden, dim).T)
        )
        # A single head keeps plain strides, or each later product would copy the activations into them.
        first = first[None] if n_heads == 1 else first.view(len(x), n_heads, hidden).transpose(0, 1)
        return torch.baddbmm(p["bottleneck.bias"][:, None], first, p["bottleneck.weight"].transpose(1, 2))


class HeadBank:
    """All heads of one network (student or teacher), in chunks of at most `chunk` heads."""

    def __init__(self, parameters: Mapping[str, Tensor], *, chunk: int) -> None:
        """Split stacked parameters ([H, ...] each, names of `PARAMETERS`) into chunks of their own memory."""
        pieces = zip(*(parameters[name].split(chunk) for name in PARAMETERS), strict=True)
        self.chunks = [
            HeadChunk({name: tensor.clone() for name, tensor in zip(PARAMETERS, piece, strict=True)})
            for piece in pieces
        ]

    def __iter__(self) -> Iterator[HeadChunk]:
        return iter(self.chunks)

    def tensors(self) -> list[Tensor]:
        """Every parameter tensor, chunk by chunk."""
        return [chunk.parameters[name] for chunk in self.chunks for name in PARAMETERS]

    def stacked(self) -> dict[str, Tensor]:
        """Parameters as [H, ...] tensors by name: what is saved, whatever the chunks."""
        return {name: torch.cat([chunk.parameters[name].detach() for chunk in self.chunks]) for name in PARAMETERS}

    def labels(self, x: Tensor) -> Tensor:
        """Cluster of each row of normalised inputs `x` [rows, D] under each head, int32[rows, H]."""
        with torch.no_grad():
            return torch.cat([chunk.logits(x).argmax(-1) for chunk in self.chunks]).T.to(torch.int32)


def initialise(heads: Iterable[int], *, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Fresh parameters of the heads with these numbers, [len(heads), ...] each of `head_shapes`, float32 on the CPU.

    Weights are truncated normal with standard deviation 0.02, biases zero (TEMI). Every head has a stream of its
    own, from (seed, head), so neither chunks nor workers change it.
    """
    stacks: dict[str, list[Tensor]] = {name: [] for name in PARAMETERS}
    for head in heads:
        generator = torch.Generator().manual_seed(derived_seed(seed, head))
        for name in PARAMETERS:
            tensor = torch.zeros(shapes[name])
            if not name.endswith("bias"):
                torch.nn.init.trunc_normal_(tensor, std=0.02, generator=generator)
            stacks[name].append(tensor)
    return {name: torch.stack(tensors) for name, tensors in stacks.items()}


def heads_per_chunk(device: torch.device, *, n_heads: int, rows: int, widest: int) -> int:
    """How many heads go into one batched product.

    `rows` are the inputs of a step, `widest` the widest activation of a head. On an accelerator kernel launches
    dominate: all heads, unless activations pass 4 GB. On a CPU activations should stay within its caches: about
    8 MB (measured in jobs/bench/RESULTS.md).
    """
    budget = 8 * 2**20 if device.type == "cpu" else 4 * 2**30
    return max(1, min(n_heads, budget // (4 * rows * widest)))


@dataclass(frozen=True)
class HeadCost:
    """Operations and bytes of training heads of `recipe` with inputs of `dim` numbers and a batch of `batch` pairs.

    What a plan and a measurement divide by seconds. A multiply-add counts as two operations, as torch counts them.
    """

    recipe: Recipe
    dim: int
    n_clusters: int
    batch: int

    @property
    def _sizes(self) -> list[tuple[int, ...]]:
        recipe = self.recipe
        return list(head_shapes(self.dim, recipe.hidden, recipe.bottleneck, self.n_clusters).values())

    @property
    def parameters(self) -> int:
        """Of one head."""
        return sum(math.prod(shape) for shape in self._sizes)

    @property
    def products(self) -> int:
        """Multiply-adds of one row through one head."""
        return sum(math.prod(shape) for shape in self._sizes if len(shape) == 2)

    @property
    def rows(self) -> int:
        """Inputs of a step: anchors and the neighbours whose teacher outputs are averaged."""
        return (1 + self.recipe.smoothing_neighbors) * self.batch

    def step_flops(self) -> float:
        """Operations of one step of all heads: the teacher forward on `rows`, the student forth and back on the pairs.

        Backward takes twice the forward, but for the gradient of the first layer's input, which nobody needs.
        """
        student = 3 * self.products - self.dim * self.recipe.hidden
        return 2.0 * self.recipe.heads * (self.rows * self.products + 2 * self.batch * student)

    def step_bytes(self, device: str, precision: Precision = "auto") -> float:
        """Bytes that one step of all heads moves beside its matrix products; compiled on CUDA, as by default."""
        size = 2 if product_precision(precision, device) == "bfloat16" else 4
        logit = FUSED_PASSES * size if device == "cuda" else PLAIN_PASSES * 4
        return float(self.recipe.heads) * (logit * self.rows * self.n_clusters + UPDATE_BYTES * self.parameters)

    def memory(self, heads: int, device: str) -> float:
        """Bytes of training so many heads, beside features and neighbours.

        Networks, gradients and moments; activations of one chunk of heads; targets.
        """
        widest = max(self.recipe.hidden, self.n_clusters)
        chunk = heads_per_chunk(torch.device(device), n_heads=heads, rows=self.rows, widest=widest)
        widths = 2 * self.recipe.hidden + 2 * self.recipe.bottleneck + 6 * self.n_clusters
        return 4.0 * (5 * heads * self.parameters + self.rows * (chunk * widths + heads * self.n_clusters))


class Networks:
    """Student, teacher, optimiser and class marginals: what training changes, of the heads that one worker trains.

    `workers` share the heads, and a `state` is of all of them. `student` and `teacher` are banks of this worker's
    heads, `marginal` float32[own heads, K] and, where the recipe estimates it, `prior` as well: the moving mean of the
    teacher's plain softmax.
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
        shapes = head_shapes(dim, recipe.hidden, recipe.bottleneck, n_clusters)
        fresh = initialise(range(self.own.start, self.own.stop), shapes=shapes, seed=seed)
        self._set_student({name: tensor.to(device) for name, tensor in fresh.items()})
        self.teacher = HeadBank(self.student.stacked(), chunk=chunk)
        self.marginal = torch.full((self.own.stop - self.own.start, n_clusters), 1.0 / n_clusters, device=device)
        self.prior = self.marginal.clone()
        self._ema = get_ema_multi_avg_fn(recipe.teacher_momentum)

    def _set_student(self, parameters: Mapping[str, Tensor]) -> None:
        """Make these parameters the student, with an optimiser of its own."""
        self.student = HeadBank(parameters, chunk=self.chunk)
        tensors = [tensor.requires_grad_(True) for tensor in self.student.tensors()]
        self.optimizer = torch.optim.AdamW(tensors, lr=0.0, weight_decay=self.recipe.weight_decay, fused=True)

    def update(self, learning_rate: float, step: int) -> None:
        """AdamW on the present gradients, then the teacher's moving average."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._ema(self.teacher.tensors(), self.student.tensors(), step)

    def gather_heads(self, tensor: Tensor) -> Tensor:
        """Rows of this worker's heads to rows of all heads, [H, ...]."""
        return self.workers.all_gather(tensor, shares(self.recipe.heads, self.workers.size))

    def gather_teacher(self) -> HeadBank:
        """The teachers of all heads, on every worker."""
        if self.workers.size == 1:
            return self.teacher
        stacked = self.teacher.stacked()
        return HeadBank({name: self.gather_heads(tensor) for name, tensor in stacked.items()}, chunk=self.chunk)

    def state(self) -> dict[str, Tensor]:
        """Parameters, moments and class marginals of all heads, as named tensors of their own memory."""
        state = {f"student.{name}": tensor for name, tensor in self.student.stacked().items()}
        state |= {f"teacher.{name}": tensor for name, tensor in self.teacher.stacked().items()}
        for moment in MOMENTS:
            for name in PARAMETERS:
                state[f"{moment}.{name}"] = torch.cat(
                    [self._moment(chunk.parameters[name], moment) for chunk in self.student]
                )
        state["marginal"] = self.marginal.clone()
        if self.recipe.cluster_prior == "estimated":
            state["prior"] = self.prior.clone()
        return {name: self.gather_heads(tensor) for name, tensor in state.items()}

    def _moment(self, parameter: Tensor, moment: str) -> Tensor:
        state = self.optimizer.state.get(parameter)
        return state[moment] if state else torch.zeros_like(parameter, requires_grad=False)

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take this worker's heads out of a `state`, which `steps` optimiser steps have led to."""

        def own(name: str) -> Tensor:
            return state[name][self.own].to(self.device, copy=True)  # they are updated in place

        def bank(prefix: str) -> HeadBank:
            return HeadBank({name: own(f"{prefix}.{name}") for name in PARAMETERS}, chunk=self.chunk)

        self.marginal = own("marginal")
        if self.recipe.cluster_prior == "estimated":
            self.prior = own("prior")
        self._set_student(bank("student").stacked())
        self.teacher = bank("teacher")
        count = torch.tensor(float(steps), device=self.device)
        moments = [bank(moment).tensors() for moment in MOMENTS]
        for parameter, *values in zip(self.student.tensors(), *moments, strict=True):
            self.optimizer.state[parameter] = dict(zip(MOMENTS, values, strict=True)) | {"step": count.clone()}
