"""Which labelling to keep, judged without labels: the candidates of ICCE with nothing set and four criteria (ours).

Candidates are the head of the lowest loss, the consensus of each method, the votes that refine the best of them (what
is kept today, by ANMI) and the linear classifier's labels of the same rows. The criteria are ANMI (paper eq. 4-7),
modularity on the graph of the 20 nearest (`core.selection`), the silhouette in the projected features (Rousseeuw 1987,
of 2,000 rows at most) and how well a linear classifier predicts held-out rows of the labelling (TURTLE's choice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.consensus import METHODS, consensus
from icce_ray.core.metrics import contingency, nmi, scores
from icce_ray.core.neighbors import Limits
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.search import mine
from icce_ray.core.selection import NEAREST, modularity, nearest
from icce_ray.estimator import ICCE
from icce_ray.search.partition import PARTITIONERS
from jobs.paper.baselines.turtle import generalization
from jobs.paper.measure import Figures, Measured
from jobs.paper.tables import table

CRITERIA = ("ANMI", "modularity", "silhouette", "generalization")
NAMES = ("best head", *METHODS, "votes", "classifier")
SILHOUETTE_ROWS = 2000


def kept(measure: Measured, seeds: Sequence[int]) -> str:
    """ACC in percent of every candidate by seed, and of what each criterion would keep."""
    on, rows = measure.on, []
    for seed in seeds:
        found = measure.once("kept", {"study": "kept"}, seed, lambda seed=seed: _judged(measure, seed))
        cells = [f"{found[f'{name}.acc']:.1f}" if f"{name}.acc" in found else "" for name in NAMES]
        picks = [max((name for name in NAMES if f"{name}.{one}" in found), key=_value(found, one)) for one in CRITERIA]
        rows.append([seed, *cells, *(f"{found[f'{pick}.acc']:.1f} ({pick})" for pick in picks)])
    header = ["seed", *NAMES, *(f"by {criterion}" for criterion in CRITERIA)]
    return table(f"What is kept, {on.name}", header, rows)


def _value(found: Figures, criterion: str) -> Callable[[str], float]:
    return lambda name: found[f"{name}.{criterion}"]


def _judged(measure: Measured, seed: int) -> Figures:
    on = measure.on
    model = ICCE(on.n_clusters, random_state=seed).fit(on.features.numpy())
    inputs = _inputs(on.features, model.choice_.components)
    graph = nearest(mine(inputs, Limits(1.0, NEAREST, NEAREST)), NEAREST)
    figures: Figures = {}
    for name, labels in _candidates(model, on.features, seed).items():
        values = {
            "acc": 100 * scores(labels, on.classes)["acc"],
            "ANMI": _anmi(labels, model.head_labels_, on.n_clusters),
            "modularity": modularity(torch.from_numpy(labels), graph, on.n_clusters),
            "silhouette": _silhouette(inputs, labels, seed),
            "generalization": generalization(inputs.float(), torch.from_numpy(labels).long(), on.n_clusters, seed),
        }
        figures |= {f"{name}.{key}": float(value) for key, value in values.items()}
    return figures


def _inputs(features: Tensor, components: int) -> Tensor:
    return Projection.of(Moments.of(features), components).apply(features) if components else features


def _candidates(model: ICCE, features: Tensor, seed: int) -> dict[str, NDArray[np.int32]]:
    found = consensus(model.head_labels_, model.n_clusters_, PARTITIONERS, seed=seed)
    return {
        "best head": np.ascontiguousarray(model.head_labels_[:, model.best_head_]),
        **found.candidates,
        "votes": found.label,
        "classifier": model.predict(features.numpy()),
    }


def _anmi(labels: NDArray[np.int32], heads: NDArray[np.int32], n_clusters: int) -> float:
    return float(np.mean([nmi(contingency(labels, head, n_clusters, n_clusters)) for head in heads.T]))


def _silhouette(inputs: Tensor, labels: NDArray[np.int32], seed: int) -> float:
    from sklearn.metrics import silhouette_score

    size = min(SILHOUETTE_ROWS, len(labels))
    return float(silhouette_score(inputs.numpy(), labels, metric="cosine", sample_size=size, random_state=seed))
