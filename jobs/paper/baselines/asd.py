"""The ASD start: a semi-supervised learner without a clustering to begin with (Duan et al., arXiv 2509.20976).

1. Images drawn at random are each a class of their own; a classifier learns these instance classes.
2. Its prediction of every unlabelled row is recorded after each epoch. Rows that change from class i to class j show
   that the two instances look alike: these transitions are counted.
3. The graph of the instance classes, weighted by their transitions in both directions, is cut into K groups: the
   cluster labels of the drawn images.
4. A FixMatch-like learner (Sohn et al., NeurIPS 2020) goes on from them: cross-entropy on the drawn images, and on all
   rows whose class it predicts with a probability above 0.95.

Only the abstract was at hand, and short summaries. Read into gaps (ours):
- One fixed sample of 20 images a cluster. The paper draws new ones in every iteration and aligns their labels.
- The instance classifier is linear in cosines, over a temperature of 0.1, of centred rows; an epoch is one step of all
  drawn images by Adam at 0.003, and 100 epochs are counted, over 8,192 rows at most.
- Frozen features have no augmentations: dropout of half of the entries stands for them, in training, in the predictions
  that are counted (without it too few rows change their class to tell anything) and in FixMatch's strong view. Its
  weak view is the row itself.
- METIS cuts the graph, groups of at most 1.2 times the mean size, as a random sample of balanced classes varies by
  about a fifth. Normalised spectral cuts of such sparse counts split off single instances, and did worse on digits.
- The learner is linear: Adam at 1e-3, 500 steps of 1,024 rows and as many drawn images; both losses weigh the same.
- Dropout, rate and epochs were chosen on digits and one set of drawn features in sight of their labels: in favour of
  this rival, one setting for all sets.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from icce_ray.core.heads import derived_seed
from icce_ray.core.sampling import uniform_rows
from icce_ray.search.partition import metis_graph
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

_STREAM = 23
_BLOCK_ROWS = 1024
_IMBALANCE = 0.2


def asd(
    *,
    per_cluster: int = 20,
    epochs: int = 100,
    watched: int = 8192,
    temperature: float = 0.1,
    instance_rate: float = 0.003,
    dropout: float = 0.5,
    steps: int = 500,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    threshold: float = 0.95,
) -> Fit:
    """The ASD start and its learner as a `Fit`. The threshold is FixMatch's, all other values are ours.

    The fit raises ValueError unless 1 <= n_clusters <= n, and on features that are not finite or all zero.
    """

    def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        check_clusters(features, n_clusters)
        prepare = scaling(features)
        x = prepare(features)
        generator = torch.Generator(x.device).manual_seed(derived_seed(seed, _STREAM))
        few = _drawn(x, min(len(x), per_cluster * n_clusters), derived_seed(seed, _STREAM, 0))
        many = _drawn(x, min(len(x), watched), derived_seed(seed, _STREAM, 1))
        centred = x - x.mean(0)
        swaps = transitions(
            centred[few],
            centred[many],
            epochs=epochs,
            temperature=temperature,
            learning_rate=instance_rate,
            dropout=dropout,
            generator=generator,
        )
        groups = _groups(swaps, n_clusters, derived_seed(seed, _STREAM, 2) % 2**31)
        labels = torch.from_numpy(groups).long().to(x.device)
        weight, bias = fresh_linear((n_clusters,), x.shape[1], generator)

        def fixmatch(drawn: tuple[Tensor, Tensor]) -> Tensor:
            """Loss of labelled rows, and of two views of unlabelled ones (FixMatch, eq. 3 and 4)."""
            rows, own = drawn
            views = x[few[own]], x[rows], dropped(x[rows], dropout, generator)
            known, weak, strong = (torch.addmm(bias, view, weight.T) for view in views)
            confident = confident_cross_entropy(strong, weak, threshold, balanced=False)
            return F.cross_entropy(known, labels[own]) + confident

        unlabelled, labelled = (batches(n, batch_size, steps, generator) for n in (len(x), len(few)))
        minimize([weight, bias], learning_rate, zip(unlabelled, labelled, strict=True), fixmatch)
        return fitted(features, lambda rows: torch.addmm(bias, prepare(rows), weight.T))

    return fit


def _drawn(x: Tensor, size: int, seed: int) -> Tensor:
    return torch.from_numpy(uniform_rows(len(x), size, seed)).to(x.device)


def transitions(
    few: Tensor,
    many: Tensor,
    *,
    epochs: int,
    temperature: float,
    learning_rate: float,
    dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """How often rows `many` [m, D] changed between two of the classes that rows `few` [s, D] are, int64[s, s].

    Symmetric, the diagonal zero: changes in both directions, from each of the `epochs` to the next.
    """
    size = len(few)
    classes = torch.arange(size, device=few.device)
    weight, _ = fresh_linear((size,), few.shape[1], generator)
    optimizer = torch.optim.Adam([weight], lr=learning_rate, fused=True)
    counts = torch.zeros(size * size, dtype=torch.int64, device=few.device)
    before = None
    for _ in range(epochs):
        z = F.normalize(dropped(few, dropout, generator), dim=1)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(z @ F.normalize(weight, dim=1).T / temperature, classes).backward()
        optimizer.step()
        # The largest cosine, whatever the length of the row.
        centres = F.normalize(weight.detach(), dim=1).T
        blocks = many.split(_BLOCK_ROWS)
        now = torch.cat([(dropped(block, dropout, generator) @ centres).argmax(1) for block in blocks])
        if before is not None:
            counts += torch.bincount(before * size + now, minlength=size * size)
        before = now
    return (counts.view(size, size) + counts.view(size, size).T).fill_diagonal_(0)


def _groups(swaps: Tensor, n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Cluster of each instance class, int32[s] in [0, n_clusters)."""
    graph = sparse.csr_matrix(swaps.cpu().numpy())
    return metis_graph(graph, np.ones(len(swaps), dtype=np.int64), n_clusters, seed, imbalance=_IMBALANCE)
