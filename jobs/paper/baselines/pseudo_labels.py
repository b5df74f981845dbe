"""Training a linear classifier on its own confident predictions: the last step of SCAN and of the ASD start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
