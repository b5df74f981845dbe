"""Nothing set: ICCE given the number of clusters alone, beside the rivals, on one set and on all that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from icce_ray.estimator import ICCE
from jobs.paper.baselines.asd import asd
from jobs.paper.baselines.classical import (
    kmeans_ensemble,
    mixture,
    mixture_ensemble,
    spectral,
    spherical_kmeans,
    ward,
)
from jobs.paper.baselines.kmeans import kmeans
from jobs.paper.baselines.scan import scan
from jobs.paper.baselines.temi import temi
from jobs.paper.baselines.turtle import turtle
from jobs.paper.icce import Fit, Fitted
from jobs.paper.measure import Figures, Measured
from jobs.paper.tables import cells, table

OURS = "ICCE, nothing set"
_PREFIX = "nothing set: "
_METRICS = ("fitted.seen.acc", "fitted.unseen.acc", "fitted.unseen.nmi", "fitted.unseen.ari")


def rival_fits() -> dict[str, Fit]:
    """Every rival that needs no more than the rows and the number of clusters, by name."""
    return {
        "k-means, best of 10": kmeans(),
        "spherical k-means, best of 10": spherical_kmeans(),
        "Ward": ward(),
        "spectral clustering": spectral(),
        "Gaussian mixture, best of 5": mixture(),
        "ensemble of 24 mixtures": mixture_ensemble(),
        "ensemble of 24 k-means": kmeans_ensemble(),
        "SCAN, clustering step": scan(self_label_steps=0),
        "SCAN + self-labelling": scan(),
        "TURTLE": turtle(),
        "ASD start": asd(),
        "TEMI, 20 neighbours": temi(20),
        "TEMI, 50 neighbours": temi(50),
    }


def icce(features: Tensor, n_clusters: int, seed: int) -> Fitted:
    """The estimator as a `Fit`: the consensus of the rows fitted, the classifier for others."""
    model = ICCE(n_clusters, random_state=seed).fit(features.numpy())
    return Fitted(model.labels_, lambda rows: model.predict(rows.numpy()))


def nothing_set(measure: Measured, seeds: Sequence[int]) -> str:
    """A table of the set at hand, and one of the unseen ACC on all sets in the file of figures."""
    fits = rival_fits() | {OURS: icce}
    found: dict[str, list[Figures]] = {}
    for name, fit in fits.items():
        found[name] = [measure.rival(f"{_PREFIX}{name}", fit, seed) for seed in seeds]
    rows = []
    for name, each in found.items():
        rows.append([name, *cells(each, _METRICS), f"{np.mean([one['seconds'] for one in each]):.1f}"])
    header = ["", "ACC, seen", "ACC, unseen", "NMI, unseen", "ARI, unseen", "seconds"]
    return table("Nothing set", header, rows) + "\n" + _all_sets(measure.kept)


def _all_sets(kept: Path) -> str:
    """ACC of unseen rows in percent, mean over seeds, of every method and set; the last column is the mean of all."""
    values: dict[str, dict[str, list[float]]] = {}
    for line in map(json.loads, kept.read_text().splitlines()):
        if line["name"].startswith(_PREFIX):
            of_method = values.setdefault(line["name"].removeprefix(_PREFIX), {})
            of_method.setdefault(line["set"], []).append(100 * line["figures"]["fitted.unseen.acc"])
    sets = [name for name in values[OURS] if all(name in of_method for of_method in values.values())]
    rows = []
    for method, of_method in values.items():
        means = [float(np.mean(of_method[name])) for name in sets]
        rows.append([method, *(f"{mean:.1f}" for mean in means), f"{np.mean(means):.1f}"])
    return table("Nothing set, ACC of unseen rows", ["", *sets, "mean"], rows)
