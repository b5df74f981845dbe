"""SCAN: learning to classify images without labels (Van Gansbeke et al., ECCV 2020, arXiv 2005.12320), heads only.

1. Linear heads with softmax, of which an image and one of its k nearest neighbours should agree while the classes
   stay equally used (eq. 2): `-log <p(x), p(x')> - 5 H(mean over the batch of p(x))`. Ten heads; the one of the lowest
   loss is kept.
2. Self-labelling: that head goes on learning its own predictions of a probability above 0.99, by cross-entropy against
   a strongly augmented view, classes weighted by their inverse frequency in the batch (public code).

Read into gaps (ours):
- The backbone is frozen in both steps, as in the paper's ImageNet runs in step 1 only.
- Adam at 0.01 for 500 steps of 1,024 rows. The paper takes Adam at 1e-4 where it trains the backbone and SGD at 5
  where it does not; a head alone is a small problem, and rates from 0.001 to 0.03 gave the same on digits, as did 1,500
  steps.
- Inputs are divided by their root mean square: learning rates assume a backbone's scale.
- x' is drawn afresh each step, uniformly of the k neighbours; k = 20, the paper's for all but ImageNet (50). Both
  views weigh in the first term, the anchors alone in the entropy (public code).
- The lowest loss is that over all rows and all their neighbours after the last step, the entropy weighted as in
  training; the public code's selection weighs it by one.
- Frozen features have no augmentations. The target is the plain row; dropout of a third of its entries stands for the
  strong view: without any, a linear head would only sharpen what it says already. 500 steps by Adam at 1e-3; where
  no row of a batch is confident the head stays as it is (the public code stops with an error).
"""

from __future__ import annotations

import torch
from torch import Tensor

from icce_ray.core.heads import derived_seed
from icce_ray.core.neighbors import Limits
from icce_ray.core.search import mine
from jobs.paper.baselines.rows import (
    batches,
    check_clusters,
    confident_cross_entropy,
    dropped,
    fitted,
    fresh_linear,
    minimize,
    scaling,
)
from jobs.paper.icce import Fit, Fitted

_STREAM = 21
_BLOCK_ROWS = 1024


def scan(
    *,
    heads: int = 10,
    neighbors: int = 20,
    entropy_weight: float = 5.0,
    steps: int = 500,
    batch_size: int = 1024,
    learning_rate: float = 0.01,
    threshold: float = 0.99,
    self_label_steps: int = 500,
    self_label_rate: float = 1e-3,
    dropout: float = 1 / 3,
) -> Fit:
    """SCAN as a `Fit`; `self_label_steps=0` is its first step alone.

    The paper's: heads, neighbors, entropy_weight, batch_size (of ImageNet), threshold; the others are ours.

    The fit raises ValueError unless 1 <= n_clusters <= n, and on rows that are zero or not finite.
    """

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        prepare = scaling(features)
        x = prepare(features)
        lists = mine(features, Limits(1.0, neighbors, neighbors)).ids.view(len(x), -1)
        generator = torch.Generator(x.device).manual_seed(derived_seed(seed, _STREAM))
        bank = fresh_linear((heads, n_clusters), x.shape[1], generator)

        def clustering(anchors: Tensor) -> Tensor:
            drawn = torch.randint(lists.shape[1], anchors.shape, generator=generator, device=x.device)
            log_p = _log_probabilities(x[torch.cat([anchors, lists[anchors, drawn]])], *bank)
            p_mean = log_p[:, : len(anchors)].exp().mean(1)
            consistency = -_agreement(*log_p.split(len(anchors), dim=1)).mean(1)
            # Heads share nothing, so each follows its own loss.
            return (consistency - entropy_weight * torch.special.entr(p_mean).sum(1)).sum()

        minimize(bank, learning_rate, batches(len(x), batch_size, steps, generator), clustering)
        best = _losses(x, lists, *bank, entropy_weight=entropy_weight).argmin()
        head = [tensor.detach()[best].clone().requires_grad_(True) for tensor in bank]

        def self_labelling(rows: Tensor) -> Tensor:
            """What the head says of thinned rows against what it is sure of in the whole rows."""
            plain, strong = (
                torch.addmm(head[1], view, head[0].T) for view in (x[rows], dropped(x[rows], dropout, generator))
            )
            return confident_cross_entropy(strong, plain, threshold, balanced=True)

        minimize(head, self_label_rate, batches(len(x), batch_size, self_label_steps, generator), self_labelling)
        return fitted(features, lambda rows: torch.addmm(head[1], prepare(rows), head[0].T))

    return fit


def _log_probabilities(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Log-probabilities [H, B, K] of rows [B, D] under all heads, by one product."""
    heads, n_clusters, dim = weight.shape
    logits = torch.addmm(bias.flatten(), x, weight.view(-1, dim).T)
    return logits.view(len(x), heads, n_clusters).transpose(0, 1).log_softmax(-1)


def _agreement(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`log <p, q>` [H, B] of log-probabilities [H, B, K]: its gradient stays bounded where the product vanishes."""
    return torch.logsumexp(log_p + log_q, dim=-1)


@torch.no_grad()
def _losses(x: Tensor, lists: Tensor, weight: Tensor, bias: Tensor, *, entropy_weight: float) -> Tensor:
    """SCAN's loss of every head over all rows and all their neighbours, [H]."""
    log_p = torch.cat([_log_probabilities(block, weight, bias) for block in x.split(_BLOCK_ROWS)], dim=1)
    entropy = torch.special.entr(log_p.exp().mean(1)).sum(1)
    agreed = torch.stack([_agreement(log_p, log_p[:, slot]).mean(1) for slot in lists.T])
    return -agreed.mean(0) - entropy_weight * entropy
