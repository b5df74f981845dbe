"""Inputs of the heads: rows of the frozen features, normalised by their batch or by all images (paper 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

BATCH_NORM_EPS = 1e-5


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
