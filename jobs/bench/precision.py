"""Products in float32 and in bfloat16: loss curves and accuracy of whole trainings, beside what a seed changes.

    python jobs/bench/precision.py [--parquet FILE --rows 20000] [--seeds 3]

Without --parquet scikit-learn's 1,797 digits; else rows of a Parquet file with columns `bytes` (image files) and
`label`. HOG features. Labels are used for the accuracy alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from measuring import header, options, row

from icce_ray.core.consensus import consensus
from icce_ray.core.metrics import scores
from icce_ray.core.neighbors import Limits, Neighbors, default_k_max
from icce_ray.core.recipe import Execution, Precision, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer
from icce_ray.search.partition import PARTITIONERS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `jobs` is not installed

from jobs.paper.feature_sets import digit_features, image_features

CLUSTERS, K_MIN, THRESHOLD = 10, 50, 0.65
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def main() -> None:
    """Print one row a seed and precision, then the differences."""
    parser = options(__doc__, rows=20_000, seeds=3, heads=10, epochs=30)
    parser.add_argument("--parquet", type=Path)
    given = parser.parse_args()
    features, truth = image_features(given.parquet, given.rows) if given.parquet else digit_features()
    k_max = default_k_max(len(features), CLUSTERS, K_MIN)
    lists = mine(features, Limits(THRESHOLD, K_MIN, k_max))
    recipe = Recipe(
        heads=given.heads,
        epochs=given.epochs,
        warmup_epochs=3,
        batch_size=256,
        learning_rate=1e-3,
        teacher_momentum=0.99,
    )
    print(f"{len(features):,} x {features.shape[1]}, {vars(given)}\n")
    header("seed", "products", "TEMI at the end", "ACC, mean of heads", "ACC, consensus", "s")
    curves = np.array(
        [[_training(features, lists, truth, recipe, seed, p) for p in PRECISIONS] for seed in range(given.seeds)]
    )
    losses = curves[..., :-2]
    between = np.abs(losses[:, 1] - losses[:, 0])
    spread = np.abs(losses[:, 0] - losses[:, 0].mean(0))
    heads, consensus_acc = ([_span(curves[:, which, column]) for which in (0, 1)] for column in (-2, -1))
    print(
        f"\nLoss curves, mean over epochs and seeds: bfloat16 is {between.mean():.4f} from float32 of the same seed, "
        f"a seed {spread.mean():.4f} from the mean of seeds. ACC in float32 and in bfloat16: of the consensus "
        f"{consensus_acc[0]} and {consensus_acc[1]}, of a head {heads[0]} and {heads[1]}."
    )


def _training(
    features: torch.Tensor, lists: Neighbors, truth: np.ndarray, recipe: Recipe, seed: int, precision: Precision
) -> list[float]:
    """Mean TEMI loss of each epoch, then the mean accuracy of the heads and that of the consensus."""
    started = time.perf_counter()
    trainer = HeadTrainer(
        features, lists, n_clusters=CLUSTERS, recipe=recipe, seed=seed, execution=Execution(precision=precision)
    )
    losses = [float(trainer.run_epoch().temi.mean()) for _ in range(recipe.epochs)]
    taken = time.perf_counter() - started
    labels = trainer.labels(features).numpy()
    found = consensus(labels, CLUSTERS, PARTITIONERS, methods=("mcla", "hbgf"))
    heads = float(np.mean([scores(head, truth)["acc"] for head in labels.T]))
    acc = scores(found.label, truth)["acc"]
    row(seed, precision, f"{losses[-1]:.4f}", f"{100 * heads:.2f}", f"{100 * acc:.2f}", f"{taken:.0f}")
    return [*losses, heads, acc]


def _span(values: np.ndarray) -> str:
    return f"{100 * values.mean():.2f} +- {100 * values.std(ddof=1):.2f}"


if __name__ == "__main__":
    main()
