"""What the rivals share: checks, scale and batches of rows, a linear layer, and training on confident predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from jobs.paper.icce import Fitted

T = TypeVar("T")
_BLOCK_ROWS = 8192


def check_clusters(features: Tensor, n_clusters: int) -> None:
    """Raise ValueError unless `features` is [n, D] and 1 <= n_clusters <= n."""
    if features.ndim != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; give one row an image, [n, D]")
    if not 1 <= n_clusters <= len(features):
        raise ValueError(f"n_clusters = {n_clusters} for {len(features)} rows; ask for 1 to {len(features)}")


def scaling(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The function that divides rows [m, D] of any set by the root mean square of all entries of `features`.

    That changes the unit and nothing else: a learning rate that suits one backbone's features then suits another's.
    Raises ValueError on values that are not finite or all zero.
    """
    size = features.float().square().mean().sqrt()
    if not (bool(size.isfinite()) and bool(size > 0)):
        raise ValueError(f"the features' root mean square is {float(size)}; remove rows that are not finite or zero")
    return lambda rows: rows.float() / size


def minimize(parameters: Sequence[Tensor], rate: float, draws: Iterable[T], loss: Callable[[T], Tensor]) -> None:
    """Lower the loss of one draw after the other, each by a step of Adam."""
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    for drawn in draws:
        optimizer.zero_grad(set_to_none=True)
        loss(drawn).backward()
        optimizer.step()


def batches(n_rows: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of row numbers, int64[min(size, n_rows)]: epochs in random order without their last rows."""
    size = min(size, n_rows)
    per_epoch = n_rows // size
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(n_rows, generator=generator, device=generator.device)
        yield order[place * size : (place + 1) * size]


def fitted(features: Tensor, scores: Callable[[Tensor], Tensor]) -> Fitted:
    """The clustering in which a row's cluster is the column of its highest score; `scores` gives [m, K] of [m, D]."""
    device = features.device

    def predict(rows: Tensor) -> NDArray[np.int32]:
        with torch.no_grad():
            found = [scores(block.to(device)).argmax(1).to(torch.int32).cpu() for block in rows.split(_BLOCK_ROWS)]
        return torch.cat(found).numpy()

    return Fitted(predict(features), predict)


def fresh_linear(outputs: tuple[int, ...], dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trainable weight [*outputs, dim] and bias [*outputs], as torch's Linear starts: uniform within dim^-1/2."""
    drawn = (torch.rand(shape, generator=generator, device=generator.device) for shape in ((*outputs, dim), outputs))
    weight, bias = (((2 * tensor - 1) * dim**-0.5).requires_grad_(True) for tensor in drawn)
    return weight, bias


def dropped(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Rows [B, D] with each entry zero with probability `share`, the others scaled up so that the mean stays.

    It stands where the sources augment an image strongly, which frozen features do not allow (ours).
    """
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1.0 - share)


def confident_cross_entropy(logits: Tensor, targets: Tensor, threshold: float, *, balanced: bool) -> Tensor:
    """Cross-entropy of `logits` [B, K] against the most probable class of `targets` [B, K], a scalar.

    Only rows whose probability under `targets` (logits too, no gradient) exceeds `threshold` count. `balanced` is
    SCAN's: a row weighs one over the number of such rows of its class, so that every class that is there weighs the
    same. Otherwise it is FixMatch's: a sum over the confident rows over the number of all rows. Zero without any.
    """
    confidence, classes = targets.detach().softmax(1).max(1)
    weight = (confidence > threshold).float()
    total = float(len(logits))
    if balanced:
        counts = torch.zeros(logits.shape[1], device=logits.device).index_add_(0, classes, weight)
        weight = weight / counts.clamp_min(1.0)[classes]
        total = (counts > 0).sum().clamp_min(1)
    return (F.cross_entropy(logits, classes, reduction="none") * weight).sum() / total
