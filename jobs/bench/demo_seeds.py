"""The demo's method over seeds: k-means, best head, consensus and classifier on 1,797 digits, without Ray.

    python jobs/bench/demo_seeds.py [--seeds 0 1 2 3 4]

The same features, settings and split as `icce demo`, through `icce_ray.ICCE`, which is the same core as the stages.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import header, options, row
from sklearn.cluster import KMeans

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.cli.demo import write_digits
from icce_ray.core.metrics import accuracy
from icce_ray.estimator import ICCE
from icce_ray.io.decode import decode


def features_of(folder: Path) -> np.ndarray:
    """HOG features of the images of a folder in the order of their names, as a run stores them: float16 [N, D]."""
    backbone = load_backbone(describe_backbone("hog", "hog"))
    side = backbone.info.image_size
    files = sorted(folder.iterdir())
    pictures = [decode(file.read_bytes(), size=side, resize="squash", max_pixels=10**6) for file in files]
    return backbone.embed(np.stack(pictures)).main.astype(np.float16)


def main() -> None:
    """Measure and print one table."""
    seeds = options(__doc__, seeds=[0, 1, 2, 3, 4]).parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        rows = (Path(folder) / "labels.csv").read_text().split()[1:]
        truth = {name: int(label) for name, label in (row.split(",") for row in rows)}
        data = {part: features_of(Path(folder) / part).astype(np.float32) for part in ("seen", "unseen")}
        names = {part: sorted(path.name for path in (Path(folder) / part).iterdir()) for part in data}
    labels = {part: np.array([truth[name] for name in names[part]]) for part in data}
    means: Any = KMeans
    found = []
    print("ACC (%) on scikit-learn's digits\n")
    header("seed", "k-means", "mean head", "best head", "consensus", "classifier, unseen")
    for seed in seeds:
        model = ICCE(n_clusters=10, random_state=seed).fit(data["seen"])
        heads = [accuracy(column, labels["seen"]) for column in model.head_labels_.T]
        scores = (
            accuracy(means(10, n_init=10, random_state=seed).fit_predict(data["seen"]), labels["seen"]),
            float(np.mean(heads)),
            heads[model.best_head_],
            accuracy(model.labels_, labels["seen"]),
            accuracy(model.predict(data["unseen"]), labels["unseen"]),
        )
        found.append(scores)
        row(seed, *(f"{100 * score:.2f}" for score in scores))
    row("mean", *(f"{100 * score:.2f}" for score in np.mean(found, axis=0)))


if __name__ == "__main__":
    main()
