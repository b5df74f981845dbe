"""How often `icce update` announces a class that was held out, and how often one that is not there.

A run is an ICCE fit on some images of all classes but one. Then many samples of other images are drawn: from the same
classes (every alarm is a false one), and with a share of the class that was held out. By default scikit-learn's digits
as HOG features; --images takes a Parquet file of images and labels, as `jobs/paper` does.

    python jobs/bench/novelty.py
    python jobs/bench/novelty.py --images mnist.parquet --rows 6000 --known 3000 --new 1000
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icce_ray import ICCE
from icce_ray.core.novelty import drift, far_images, unsure
from jobs.bench.measuring import header, options, row
from jobs.paper.feature_sets import digit_features, image_features

#: Columns of the table.
NAMES = ("candidate", "unsure", "drift", "any")


def alarms(known: Any, new: np.ndarray, model: ICCE) -> set[str]:
    """Names of the alarms about new features [m, D], by the figures of `icce update`."""
    features, confidence, sizes = known
    chances = model.predict_proba(new)
    label = chances.argmax(1)
    found = {
        "unsure": unsure(confidence, chances.max(1)).alarming,
        "drift": drift(sizes, np.bincount(label, minlength=len(sizes))).alarming,
        "candidate": bool(far_images(features, model.labels_, torch.from_numpy(new)).candidates),
    }
    return {name for name, alarming in found.items() if alarming}


def held_out(values: np.ndarray, classes: np.ndarray, one: int, asked: Any) -> dict[float, Counter[str]]:
    """Alarms by the share of class `one` among the new images, which the run has not seen."""
    random = np.random.default_rng(asked.seed + one)
    others = random.permutation(np.flatnonzero(classes != one))
    seen, pool, held = others[: asked.known], others[asked.known :], np.flatnonzero(classes == one)
    n_clusters = len(np.unique(classes)) - 1
    model = ICCE(n_clusters=n_clusters, random_state=asked.seed).fit(values[seen])
    chances = model.predict_proba(values[seen])
    sizes = np.bincount(chances.argmax(1), minlength=n_clusters)
    known = torch.from_numpy(values[seen]), chances.max(1), sizes
    counts = {share: Counter[str]() for share in (0.0, *asked.shares)}
    for share, count in counts.items():
        planted = min(round(share * asked.new), len(held))
        for _ in range(asked.draws):
            drawn = [
                random.choice(pool, asked.new - planted, replace=False),
                random.choice(held, planted, replace=False),
            ]
            found = alarms(known, values[np.concatenate(drawn)], model)
            count.update([*found, *(["any"] if found else [])])
    return counts


def main() -> None:
    """Print a table: alarms of all draws, by the class held out and its share of the new images."""
    defaults: dict[str, Any] = {"images": "", "rows": 6000, "known": 800, "new": 300, "draws": 20, "seed": 0}
    asked = options(__doc__, **defaults, shares=[0.1]).parse_args()
    features, classes = image_features(Path(asked.images), asked.rows) if asked.images else digit_features()
    total = {share: Counter[str]() for share in (0.0, *asked.shares)}
    header("held out", "share", "draws", *NAMES)
    for one in np.unique(classes).tolist():
        for share, count in held_out(features.numpy(), classes, one, asked).items():
            total[share].update(count)
            row(one, f"{share:.0%}", asked.draws, *(count[name] for name in NAMES))
    for share, count in total.items():
        row("all", f"{share:.0%}", asked.draws * len(np.unique(classes)), *(count[name] for name in NAMES))


if __name__ == "__main__":
    main()
