"""Classes of unequal size: what each setting gives on balanced features and on sizes of 50 to 1.

    python jobs/bench/long_tail.py [--seeds 0 1 2]

Synthetic features (`jobs.paper.synthetic`), N = 6,000, K = 30, D = 128; 8 small heads, 30 epochs, in bfloat16. One
setting per row: ACC of the heads and of the consensus, means over seeds, and how many of the 30 clusters a head uses.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from icce_ray.core.consensus import consensus
from icce_ray.core.metrics import accuracy
from icce_ray.core.neighbors import Limits, apply_limits, default_k_max
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer
from icce_ray.search.partition import PARTITIONERS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `jobs` is not installed

from jobs.paper.synthetic import FeatureModel, draw, scaled_k_min

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
        trainer = HeadTrainer(
            drawn.features,
            own,
            n_clusters=CLUSTERS,
            recipe=Recipe(**SIZE, **switches),
            seed=seed,
            execution=Execution(precision="bfloat16"),
        )
        for _ in range(trainer.recipe.epochs):
            trainer.run_epoch()
        labels = trainer.labels(drawn.features).numpy()
        heads = 100 * float(np.mean([accuracy(column, truth) for column in labels.T]))
        used = float(np.mean([len(np.unique(column)) for column in labels.T]))
        found[name] = [heads, 100 * accuracy(label(labels, seed), truth), used]
        if name == "default":
            loose = label(labels, seed, imbalances=(0.05, 0.5, 4.0))
            found[LOOSE] = [heads, 100 * accuracy(loose, truth), used]
    return found


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    table = Table("", title=f"ACC (%), mean of seeds {seeds}", title_justify="left")
    for imbalance in IMBALANCES:
        for name in ("heads", "consensus", "used"):
            table.add_column(f"{imbalance:.0f}:1 {name}", justify="right")
    each = [[measured(imbalance, seed) for seed in seeds] for imbalance in IMBALANCES]
    for row in (*list(ROWS)[:1], LOOSE, *list(ROWS)[1:]):
        values = np.concatenate([np.mean([found[row] for found in of_set], axis=0) for of_set in each])
        spread = np.concatenate([np.std([found[row] for found in of_set], axis=0) for of_set in each])
        cells = [f"{value:.1f} ± {sd:.1f}" for value, sd in zip(values, spread, strict=True)]
        table.add_row(row, *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
