"""Clustering heads in batched tensors (paper 3.1; the head of TEMI).

A head is Linear(D, 512) - GELU - Linear(512, 256) - L2 normalise - weight-normalised Linear(256, K) without bias. The
scale of the weight normalisation is fixed at one (ours; DINO's `norm_last_layer`): logits are cosines in [-1, 1]
and the temperature alone decides their range.

Heads are held in chunks. One chunk is a few large matrix products where a loop over modules is many small ones; on
a CPU a chunk must also stay in the cache, so its size follows the device (`heads_per_chunk`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icce_ray.core.cosines import cosines

#: Names of the parameters of a stack of h heads, in the order of `head_shapes`.
PARAMETERS = ("hidden.weight", "hidden.bias", "bottleneck.weight", "bottleneck.bias", "prototypes")


def head_shapes(dim: int, hidden: int, bottleneck: int, n_clusters: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of one head, by name."""
    shapes = ((hidden, dim), (hidden,), (bottleneck, hidden), (bottleneck,), (n_clusters, bottleneck))
    return dict(zip(PARAMETERS, shapes, strict=True))


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several integers >= 0 (a seed and an epoch, a seed and a head), as independent streams.

    Their number goes in too: numpy pads with zeros, and (seed, 1) would be the stream of (seed, 1, 0).
    """
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class HeadChunk:
    """Parameters of h heads: each tensor is [h, ...] of `head_shapes`."""

    parameters: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.parameters["prototypes"])

    def logits(self, x: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Cosines to the prototypes over the temperature, float32[h, rows, K], of inputs `x` [rows, D] all heads share.

        The products and the activation are computed in the type of `x`, float32 or bfloat16; lengths in float32.
        """
        p = {name: tensor.to(x.dtype) for name, tensor in self.parameters.items() if name != "prototypes"}
        n_heads, hidden, dim = p["hidden.weight"].shape
        # The first layer sees the same input in every head: one product for all of them.
        first = F.gelu(
            torch.addmm(p["hidden.bias"].reshape(-1), x, p["hidden.weight"].reshape(n_heads * hidden, dim).T)
        )
        # A single head keeps plain strides, or each later product would copy the activations into them.
        first = first[None] if n_heads == 1 else first.view(len(x), n_heads, hidden).transpose(0, 1)
        second = torch.baddbmm(p["bottleneck.bias"][:, None], first, p["bottleneck.weight"].transpose(1, 2))
        return cosines(second, self.parameters["prototypes"], temperature=temperature)


class HeadBank:
    """All heads of one network (student or teacher), in chunks of at most `chunk` heads."""

    def __init__(self, parameters: dict[str, Tensor], *, chunk: int) -> None:
        """Split stacked parameters ([H, ...] each, names of `PARAMETERS`) into chunks of their own memory."""
        pieces = {name: parameters[name].split(chunk) for name in PARAMETERS}
        self.chunks = [
            HeadChunk({name: pieces[name][i].clone() for name in PARAMETERS}) for i in range(len(pieces["prototypes"]))
        ]

    def __iter__(self) -> Iterator[HeadChunk]:
        return iter(self.chunks)

    def tensors(self) -> list[Tensor]:
        """Every parameter tensor, chunk by chunk."""
        return [chunk.parameters[name] for chunk in self.chunks for name in PARAMETERS]

    def stacked(self) -> dict[str, Tensor]:
        """Parameters as [H, ...] tensors by name: what is saved, whatever the chunks."""
        return {name: torch.cat([chunk.parameters[name].detach() for chunk in self.chunks]) for name in PARAMETERS}

    def copy(self) -> HeadBank:
        """The same heads in memory of their own, without gradients: a teacher starts as its student."""
        return HeadBank(self.stacked(), chunk=len(self.chunks[0]))

    def labels(self, x: Tensor) -> Tensor:
        """Cluster of each row of normalised inputs `x` [rows, D] under each head, int32[rows, H]."""
        with torch.no_grad():
            return torch.cat([chunk.logits(x).argmax(-1) for chunk in self.chunks]).T.to(torch.int32)


def initialise(
    heads: Iterable[int], *, dim: int, n_clusters: int, hidden: int, bottleneck: int, seed: int
) -> dict[str, Tensor]:
    """Fresh parameters of the heads with these numbers, [len(heads), ...] each, float32 on the CPU.

    Weights are truncated normal with standard deviation 0.02, biases zero (TEMI). Every head has a stream of its
    own, from (seed, head), so neither chunks nor workers change it.
    """
    shapes = head_shapes(dim, hidden, bottleneck, n_clusters)
    stacks: dict[str, list[Tensor]] = {name: [] for name in PARAMETERS}
    for head in heads:
        generator = torch.Generator().manual_seed(derived_seed(seed, head))
        for name, shape in shapes.items():
            tensor = torch.zeros(shape)
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
