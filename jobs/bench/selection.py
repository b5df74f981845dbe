"""Which label-free figure of a trial ranks settings as their accuracy does: sweeps of one setting each, on real digits.

    python jobs/bench/selection.py [--parquet FILE --rows 3000] [--out trials.jsonl]

Without --parquet scikit-learn's 1,797 digits; else rows of a Parquet file with columns `bytes` (image files) and
`label`. HOG features, 8 heads. Every trial is a line of --out, and is not run again if it is there.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import header, options, row
from scipy.stats import spearmanr

from icce_ray.core.consensus import consensus
from icce_ray.core.linear import self_train
from icce_ray.core.metrics import scores
from icce_ray.core.neighbors import Limits, default_k_max
from icce_ray.core.recipe import GridRecipe, Recipe
from icce_ray.core.search import mine
from icce_ray.core.selection import modularity
from icce_ray.search.partition import PARTITIONERS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `jobs` is not installed

from jobs.paper.feature_sets import digit_features, image_features
from jobs.paper.icce import train
from jobs.paper.variants import Variant

TEMPERATURES = (0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
#: Name of a sweep: settings of each of its trials; what a trial does not name is as in BASE.
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "threshold": [{"threshold": t} for t in (0.35, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)],
    "K": [{"clusters": k} for k in (5, 7, 8, 9, 10, 11, 12, 14, 17, 22)],
    "teacher temperature": [{"teacher_temperature": t} for t in TEMPERATURES],
    "student temperature": [{"student_temperature": t} for t in TEMPERATURES],
    "CE weight": [{"ce_weight": w} for w in (0.0, 0.3, 1.0, 3.0, 10.0)],
    "softmax teacher": [{"threshold": t, "teacher": "softmax"} for t in (0.5, 0.65, 0.8)],
    "learning rate": [{"learning_rate": r} for r in (1e-4, 5e-4, 3e-3, 1e-2, 3e-2)],
    "k nearest": [{"threshold": 1.0, "k_min": k} for k in (5, 10, 50, 100)],
}
BASE: dict[str, Any] = {"threshold": 0.65, "k_min": 20, "clusters": 10}
RECIPE: dict[str, Any] = {"heads": 8, "hidden": 128, "bottleneck": 64, "epochs": 24, "warmup_epochs": 3}
FIGURES = ("modularity 20", "modularity 10", "ANMI", "pairwise AMI", "pairwise ARI", "agreement", "held-out", "-TEMI")


def main() -> None:
    """Run the trials that are missing and print both tables."""
    parser = options(__doc__, rows=3000, out=Path("trials.jsonl"))
    parser.add_argument("--parquet", type=Path)
    arguments = parser.parse_args()
    features, truth = image_features(arguments.parquet, arguments.rows) if arguments.parquet else digit_features()
    batch = 256 if arguments.parquet is None else 512
    recipe = RECIPE | {"batch_size": batch, "learning_rate": 3e-3, "teacher_momentum": 0.99}
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    known = {json.dumps(one["trial"]): one for one in map(json.loads, lines)}
    graph = mine(features, Limits(1.0, 20, 20)).ids.view(-1, 20)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, points in SWEEPS.items():
        found[name] = []
        for point in points:
            key = json.dumps(point)
            if key not in known:
                known[key] = {"trial": point} | _trial(features, truth, graph, point, recipe)
                with arguments.out.open("a") as file:
                    file.write(json.dumps(known[key]) + "\n")
            found[name].append(known[key])
    _print(found)


def _trial(
    features: torch.Tensor, truth: np.ndarray, graph: torch.Tensor, point: dict[str, Any], recipe: dict[str, Any]
) -> dict[str, float]:
    """Every figure of one trial, and its accuracy."""
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    values = BASE | recipe | point
    threshold, k_min, clusters = (values.pop(name) for name in BASE)
    k_max = default_k_max(len(features), clusters, k_min)
    lists = mine(features, Limits(threshold, k_min, k_max))
    trained = train(features, lists, clusters, Variant(recipe=Recipe(**values)), 0)
    labels = trained.head_labels
    found = consensus(labels, clusters, PARTITIONERS, methods=("mcla", "hbgf"))
    label = torch.from_numpy(found.label)
    pairs = list(combinations(labels.T, 2))
    fitted = self_train(
        features,
        label.long(),
        torch.from_numpy(found.agreement),
        recipe=GridRecipe(learning_rates=(1e-3, 1e-2, 1e-1), batch_size=256, iterations=400),
        seed=0,
        inputs={"features": [(0, features.shape[1])]},
        n_classes=clusters,
    )
    figures = (
        modularity(label, graph, clusters),
        modularity(label, graph[:, :10], clusters),
        found.anmi,
        float(np.mean([adjusted_mutual_info_score(*pair) for pair in pairs])),
        float(np.mean([adjusted_rand_score(*pair) for pair in pairs])),
        float(found.agreement.mean()),
        fitted.winner.accuracy,
        -float(trained.losses.mean()),
    )
    return dict(zip(FIGURES, figures, strict=True)) | {"acc": scores(found.label, truth)["acc"]}


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    names = list(found)
    print("Spearman's rank correlation with ACC\n")
    header("figure", *names, "all at K = 10", "all")
    everything = [one for trials in found.values() for one in trials]
    at_ten = [one for one in everything if "clusters" not in one["trial"]]
    for figure in FIGURES:
        groups = [*found.values(), at_ten, everything]
        row(figure, *(f"{_rank(trials, figure):.2f}" for trials in groups))
    print("\nPoints of ACC that the pick of each figure is below the best of the sweep\n")
    header("figure", *names, "mean")
    for figure in FIGURES:
        lost = [_best(trials) - max(trials, key=lambda one: one[figure])["acc"] for trials in found.values()]
        row(figure, *(f"{100 * value:.1f}" for value in [*lost, np.mean(lost)]))
    lost = [_best(trials) - np.mean([one["acc"] for one in trials]) for trials in found.values()]
    row("a trial at random", *(f"{100 * value:.1f}" for value in [*lost, np.mean(lost)]))


def _rank(trials: list[dict[str, Any]], figure: str) -> float:
    found: Any = spearmanr([one[figure] for one in trials], [one["acc"] for one in trials])
    return float(found.statistic)


def _best(trials: list[dict[str, Any]]) -> float:
    return max(one["acc"] for one in trials)


if __name__ == "__main__":
    main()
