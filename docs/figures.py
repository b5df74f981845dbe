"""The figures of the documentation, from scikit-learn's digits: `python docs/figures.py docs`.

One picture of the method in four panels over the same 2-D layout, which only serves to look at.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from openTSNE import TSNE
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import icce_ray
from icce_ray.core.neighbors import Limits
from icce_ray.core.search import mine

#: Anchors whose neighbours are drawn, and points of a panel.
ANCHORS, POINT = 12, 5


def main(folder: str) -> None:
    """Write method.webp into the folder."""
    mpl.rcParams["font.size"] = 9
    digits: Any = load_digits()
    features = digits.data.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = icce_ray.ICCE(n_clusters=10, random_state=0).fit(features)
    place = TSNE(random_state=0, n_jobs=1).fit(features)
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    panels = figure.subplots(1, 4)
    _neighbors(panels[0], features, np.asarray(place))
    heads = found.head_labels_
    _labels(panels[1], place, heads[:, 0], f"2. Heads: the labels of one of {heads.shape[1]}")
    _labels(panels[2], place, found.labels_, "3. Consensus of all heads")
    confidence = found.predict_proba(features).max(axis=1)
    shown = panels[3].scatter(*place.T, c=confidence, s=POINT, cmap="viridis", linewidths=0)
    panels[3].set_title("4. Classifier: its confidence")
    figure.colorbar(shown, ax=panels[3], shrink=0.8)
    for panel in panels:
        panel.set(xticks=[], yticks=[], aspect="equal")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150)
    Image.open(picture).convert("RGB").save(Path(folder) / "method.webp", quality=85, method=6)


def _neighbors(panel: Any, features: np.ndarray, place: np.ndarray) -> None:
    centred = torch.from_numpy(PCA(32, random_state=0).fit_transform(features).astype(np.float32))
    lists = mine(centred, Limits(threshold=0.5, k_min=5, k_max=60))
    panel.scatter(*place.T, c="0.8", s=POINT, linewidths=0)
    for anchor in np.random.default_rng(0).choice(len(features), ANCHORS, replace=False):
        near = lists.ids[lists.offsets[anchor] : lists.offsets[anchor + 1]].tolist()
        panel.add_collection(LineCollection([place[[anchor, one]] for one in near], colors="tab:blue", linewidths=0.5))
        panel.scatter(*place[[anchor]].T, c="tab:red", s=3 * POINT, zorder=3)
    panel.set_title(f"1. Neighbours of {ANCHORS} images")


def _labels(panel: Any, place: np.ndarray, labels: np.ndarray, title: str) -> None:
    panel.scatter(*place.T, c=labels, s=POINT, cmap="tab10", linewidths=0)
    panel.set_title(title)


if __name__ == "__main__":
    main(*sys.argv[1:])
