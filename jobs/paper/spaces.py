"""Several feature spaces of the same images: each alone, side by side, and all by `core.spaces`, with nothing set.

Pairs: HOG and the mean colours of a Parquet file of images; its HOG and features that a user brings (`--beside`, .npz
with `features` of the first rows of the file); two views of the synthetic set, which share the
classes and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icce_ray.core.spaces import join
from icce_ray.estimator import ICCE
from jobs.paper.feature_sets import FeatureSet, hog, split
from jobs.paper.icce import Fit, Fitted
from jobs.paper.measure import Measured
from jobs.paper.synthetic import FeatureModel, draw
from jobs.paper.tables import cells, difference, points, table
from jobs.paper.variants import Variant

HOG_WIDTH = 324
_METRICS = ("fitted.seen.acc", "fitted.unseen.acc", "fitted.unseen.nmi")


def pair(on: str, beside: Path | None, images: int, model: FeatureModel) -> FeatureSet:
    """Both spaces side by side, `widths` saying where the second begins; a random fifth is unseen."""
    if on == "synthetic":
        first, second, classes = views(model, images)
        name = "two views of the synthetic set"
    elif on.endswith(".parquet"):
        import pyarrow.parquet as pq

        rows = pq.read_table(on, columns=["bytes", "label"]).slice(0, images)
        files, classes = rows["bytes"].to_pylist(), rows["label"].to_numpy().astype(np.int64)
        both = hog(files, "hog+color")
        first, second, name = both[:, :HOG_WIDTH], both[:, HOG_WIDTH:], f"{Path(on).stem}, HOG and colour"
        if beside is not None:
            brought = np.load(beside, allow_pickle=False)["features"][: len(files)]
            second, name = torch.from_numpy(brought.astype(np.float32)), f"{Path(on).stem}, HOG and {beside.stem}"
    else:
        raise ValueError(f"--on {on}: the study of several spaces takes synthetic or a .parquet file of images")
    return split(name, torch.cat([first, second], dim=1), classes, Variant(), (first.shape[1], second.shape[1]))


def views(model: FeatureModel, n_images: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Two draws of a model with classes of their own each, matched by class: what one confuses the other does not."""
    first, second = (draw(model, n_images, seed)[0] for seed in (0, 1000))
    order = np.random.default_rng(0).permutation(n_images)
    rows = [drawn.classes.argsort(stable=True)[order] for drawn in (first, second)]
    return first.features[rows[0]], second.features[rows[1]], first.classes[rows[0]].numpy()


def fits(widths: Sequence[int]) -> dict[str, Fit]:
    """The rows of the table, as fits of both spaces side by side."""

    def of(*spaces: int) -> Fit:
        def fit(features: Tensor, n_clusters: int, seed: int) -> Fitted:
            def given(rows: Tensor) -> list[np.ndarray]:
                parts = rows.split(list(widths), dim=1)
                return [parts[space].contiguous().numpy() for space in spaces]

            model = ICCE(n_clusters, random_state=seed).fit(given(features))
            return Fitted(model.labels_, lambda rows: model.predict(given(rows)))

        return fit

    def equal(features: Tensor, n_clusters: int, seed: int) -> Fitted:
        def given(rows: Tensor) -> np.ndarray:
            centred = [part - mean for part, mean in zip(rows.split(list(widths), 1), means, strict=True)]
            return join([part.numpy() for part in centred])

        means = [part.mean(0) for part in features.split(list(widths), dim=1)]
        model = ICCE(n_clusters, random_state=seed).fit(given(features))
        return Fitted(model.labels_, lambda rows: model.predict(given(rows)))

    return {"first alone": of(0), "second alone": of(1), "side by side, equal": equal, "all": of(0, 1)}


def spaces(measure: Measured, seeds: Sequence[int]) -> str:
    """A table of the pair at hand, and by how much both spaces exceed the better one, on the mean over seeds."""
    found = {name: [measure.rival(f"spaces: {name}", fit, seed) for seed in seeds] for name, fit in _rows(measure)}
    rows = [[name, *cells(each, _METRICS)] for name, each in found.items()]
    notes = []
    for metric, of in zip(_METRICS[:2], ("seen", "unseen"), strict=True):
        each = {name: [one[metric] for one in figures] for name, figures in found.items()}
        better = max(("first alone", "second alone"), key=lambda name: float(np.mean(each[name])))
        gain = points(*difference(each["all"], each[better]), len(seeds))
        notes.append(f"- all above the better one ({better}), {of}: {gain}.")
    return table(
        f"Several feature spaces, {measure.on.name}", ["", "ACC, seen", "ACC, unseen", "NMI, unseen"], rows, notes
    )


def _rows(measure: Measured) -> list[tuple[str, Fit]]:
    if len(measure.on.widths) != 2:
        raise ValueError(f"{measure.on.name} is one feature space; this study takes two")
    return list(fits(measure.on.widths).items())
