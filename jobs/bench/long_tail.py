"""Classes of unequal size: what each setting gives on balanced features and on sizes of 50 to 1.

    python jobs/bench/long_tail.py [--seeds 0 1 2]

Synthetic features (`jobs.paper.synthetic`), N = 6,000, K = 30, D = 128; 8 small heads, 30 epochs, in bfloat16. One
setting per row: ACC of the heads and of the consensus, means over seeds, and how many of the 30 clusters a head uses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import header, options, row

from icce_ray.core.consensus import consensus
from icce_ray.core.metrics import accuracy
from icce_ray.core.neighbors import Limits, apply_limits, default_k_max
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from icce_ray.search.partition import PARTITIONERS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `jobs` is not installed

from jobs.paper.icce import train
from jobs.paper.synthetic import FeatureModel, draw, scaled_k_min
from jobs.paper.variants import Variant

N, CLUSTERS, DIM = 6000, 30, 128
IMBALANCES = (1.0, 50.0)
SIZE: dict[str, Any] = {"heads": 8, "hidden": 256, "bottleneck": 128, "epochs": 30, "batch_size": 512}
SIZE |= {"learning_rate": 1e-3, "warmup_epochs": 3, "teacher_momentum": 0.99}
#: name: (switches of the recipe, k_max over N / K)
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "default": ({}, 1),
    "softmax teacher": ({"teacher": "softmax"}, 1),
    "prior_strength 0.8": ({"prior_strength": 0.8}, 1),
    "prior_strength 0.6": ({"prior_strength": 0.6}, 1),
    "cluster_prior estimated": ({"cluster_prior": "estimated"}, 1),
    "estimated, prior_strength 0.8": ({"cluster_prior": "estimated", "prior_strength": 0.8}, 1),
    "k_max 4 N / K": ({}, 4),
    "prior_strength 0.8, k_max 4 N / K": ({"prior_strength": 0.8}, 4),
    "estimated, k_max 4 N / K": ({"cluster_prior": "estimated"}, 4),
}
#: Another consensus of the default's heads: parts may be four times larger than the mean.
LOOSE = "consensus of imbalance 4 too"


def label(labels: np.ndarray, seed: int, **options: Any) -> np.ndarray:
    """Consensus by the methods that METIS serves; Mt-KaHyPar's was never kept."""
    return consensus(labels, CLUSTERS, PARTITIONERS, methods=("cspa", "mcla", "hbgf"), seed=seed, **options).label


def measured(imbalance: float, seed: int) -> dict[str, list[float]]:
    """{row: [ACC of heads, ACC of consensus, clusters a head uses]} of one set, in per cent."""
    drawn, _ = draw(FeatureModel(n_clusters=CLUSTERS, dim=DIM, imbalance=imbalance), N, seed)
    k_min, truth = scaled_k_min(N, CLUSTERS), drawn.classes.numpy()
    k_max = default_k_max(N, CLUSTERS, k_min)
    lists = mine(drawn.features, Limits(0.3, k_min, 4 * k_max))
    found = {}
    for name, (switches, factor) in ROWS.items():
        own = apply_limits(lists, Limits(0.3, k_min, factor * k_max))
        variant = Variant(recipe=Recipe(**SIZE, **switches), precision="bfloat16")
        labels = train(drawn.features, own, CLUSTERS, variant, seed).head_labels
        heads = 100 * float(np.mean([accuracy(column, truth) for column in labels.T]))
        used = float(np.mean([len(np.unique(column)) for column in labels.T]))
        found[name] = [heads, 100 * accuracy(label(labels, seed), truth), used]
        if name == "default":
            loose = label(labels, seed, imbalances=(0.05, 0.5, 4.0))
            found[LOOSE] = [heads, 100 * accuracy(loose, truth), used]
    return found


def main() -> None:
    """Measure and print one table."""
    seeds = options(__doc__, seeds=[0, 1, 2]).parse_args().seeds
    torch.set_num_threads(1)
    print(f"ACC (%), mean of seeds {seeds}\n")
    header("", *(f"{imbalance:.0f}:1 {name}" for imbalance in IMBALANCES for name in ("heads", "consensus", "used")))
    each = [[measured(imbalance, seed) for seed in seeds] for imbalance in IMBALANCES]
    for name in (*list(ROWS)[:1], LOOSE, *list(ROWS)[1:]):
        means, deviations = (
            np.concatenate([of([found[name] for found in of_set], axis=0) for of_set in each])
            for of in (np.mean, np.std)
        )
        row(name, *(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in zip(means, deviations, strict=True)))


if __name__ == "__main__":
    main()
