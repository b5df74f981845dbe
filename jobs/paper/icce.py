"""ICCE stage by stage, each stage a clustering of its own: the lowest-loss head, the ensemble, self-training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.consensus import Consensus, consensus
from icce_ray.core.linear import self_train
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.recipe import Execution, GridRecipe
from icce_ray.core.training import HeadTrainer
from icce_ray.search.partition import PARTITIONERS
from jobs.paper.variants import Variant

LABEL_ROWS = 8192


@dataclass(frozen=True)
class Fitted:
    """A clustering of the rows a method was fitted on, and its rule for rows it has not seen."""

    labels: NDArray[np.int32]
    """int32[n] in [0, n_clusters), of the rows fitted."""
    predict: Callable[[Tensor], NDArray[np.int32]]
    """int32[m] in [0, n_clusters) of rows float32[m, D]."""


Fit = Callable[[Tensor, int, int], Fitted]
"""`fit(features, n_clusters, seed)`: features float32[n, D], not normalised. No method is ever given a label."""


@dataclass(frozen=True)
class Trained:
    """Heads after their last epoch, with what they were trained on."""

    features: Tensor
    variant: Variant
    n_clusters: int
    seed: int
    trainer: HeadTrainer
    losses: NDArray[np.float32]
    """float32[H], mean TEMI loss of the last epoch."""
    head_labels: NDArray[np.int32]
    """int32[n, H]."""

    def label(self, rows: Tensor) -> NDArray[np.int32]:
        """Cluster of each row under each head, int32[m, H]."""
        teacher = self.trainer.gather_teacher()
        blocks = [self.trainer.labels(block, teacher).cpu().numpy() for block in rows.split(LABEL_ROWS)]
        return np.ascontiguousarray(np.concatenate(blocks))

    @cached_property
    def agreed(self) -> Consensus:
        """The consensus of the heads on the rows fitted."""
        return agree(self.head_labels, self.n_clusters, self.seed)


def train(
    features: Tensor,
    lists: Neighbors,
    n_clusters: int,
    variant: Variant,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train the heads of a variant. Raises ValueError if they diverge."""
    recipe = variant.recipe
    trainer = HeadTrainer(
        features,
        lists,
        n_clusters=n_clusters,
        recipe=recipe,
        seed=seed,
        execution=Execution(precision=variant.precision),
    )
    temi = torch.zeros(recipe.heads)
    for epoch in range(recipe.epochs):
        temi = trainer.run_epoch().temi
        on_epoch(epoch + 1)
    losses = temi.cpu().numpy()
    if not np.isfinite(losses).all():
        raise ValueError(f"the heads diverged at learning_rate={recipe.learning_rate}; lower it")
    blank = np.empty((0, recipe.heads), np.int32)
    trained = Trained(features, variant, n_clusters, seed, trainer, losses, blank)
    return Trained(features, variant, n_clusters, seed, trainer, losses, trained.label(features))


def agree(head_labels: NDArray[np.int32], n_clusters: int, seed: int) -> Consensus:
    """Consensus of int32[n, H], all methods (paper 3.2)."""
    return consensus(head_labels, n_clusters, PARTITIONERS, seed=seed)


def stage_one(trained: Trained) -> Fitted:
    """The head of the lowest loss (TEMI; "ICCE stage-1" of the paper's tables)."""
    best = int(trained.losses.argmin())
    return Fitted(trained.head_labels[:, best], lambda rows: trained.label(rows)[:, best])


def ensemble(trained: Trained) -> Fitted:
    """The consensus of all heads. Rows not seen get the consensus of the heads' labels of these rows, so all of them
    must be given at once (paper Table 10, "Ensemble w/ Validation Set")."""

    def predict(rows: Tensor) -> NDArray[np.int32]:
        return agree(trained.label(rows), trained.n_clusters, trained.seed).label

    return Fitted(trained.agreed.label, predict)


def self_training(trained: Trained, label: NDArray[np.int32] | None = None) -> Fitted:
    """Linear classifiers of the consensus, or of another `label` int32[n] of the rows fitted; the one kept predicts
    held-out rows of it best (paper 3.3)."""
    features, seed, variant = trained.features, trained.seed, trained.variant
    labels = torch.from_numpy(trained.agreed.label if label is None else label).long().to(features.device)
    chosen = self_train(
        features,
        labels,
        torch.ones(len(labels), device=features.device),
        recipe=GridRecipe(iterations=variant.iterations),
        seed=seed,
        inputs={"features": [(0, features.shape[1])]},
        n_classes=trained.n_clusters,
        precision=variant.precision,
    ).classifier

    def predict(new: Tensor) -> NDArray[np.int32]:
        return chosen.probabilities(new).argmax(1).to(torch.int32).cpu().numpy()

    return Fitted(predict(features), predict)
