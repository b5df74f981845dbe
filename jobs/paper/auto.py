"""`threshold: auto` against a sweep: what it picks without labels, what that gives, and what it costs (ours)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from icce_ray.core.neighbors import Limits, apply_limits, default_k_max
from icce_ray.core.pilot import Evidence, choose_threshold
from icce_ray.core.search import mine
from icce_ray.core.selection import pair_accuracy
from icce_ray.search.partition import PARTITIONERS
from jobs.paper.feature_sets import FeatureSet
from jobs.paper.measure import Measured
from jobs.paper.studies import FINAL, thresholds
from jobs.paper.tables import cell, measured, table


def auto(measure: Measured, seeds: Sequence[int]) -> str:
    """Two Markdown tables: the estimated accuracy of neighbours beside the true one, and ACC beside the sweep's."""
    found = [_chosen(measure, seed) for seed in seeds]
    swept = measured(thresholds(measure.on.base), measure, seeds)
    picked = [
        measure.variant("auto: ICCE", measure.on.base.but(threshold=evidence.threshold), seed)
        for seed, (evidence, _) in zip(seeds, found, strict=True)
    ]
    best = max(swept, key=lambda name: float(np.mean([one[FINAL] for one in swept[name]])))
    behind = 100 * float(np.mean([one[FINAL] for one in swept[best]]) - np.mean([one[FINAL] for one in picked]))
    share = float(np.mean([spent for _, spent in found]) / np.mean([one["seconds"] for one in picked]))
    numbers = ", ".join(f"{evidence.threshold:.3f}" for evidence, _ in found)
    rows = [[f"auto ({numbers})", cell(picked, FINAL)]]
    rows += [[f"{name}{', best of the sweep' * (name == best)}", cell(swept[name], FINAL)] for name in swept]
    note = f"- {behind:.2f} points behind the best of the sweep; the pilot takes {share:.2f} of a training here."
    return f"{_curve(measure, found[0][0])}\n{table('', ['threshold', 'self-training, unseen'], rows, [note])}"


def _chosen(measure: Measured, seed: int) -> tuple[Evidence, float]:
    """The evidence of a pilot and its seconds."""
    started = time.monotonic()
    evidence = pilot(measure.on, seed)
    measure.say(f"auto: pilot, seed {seed}: {time.monotonic() - started:.0f} s")
    return evidence, time.monotonic() - started


def pilot(on: FeatureSet, seed: int) -> Evidence:
    """What `threshold: auto` finds for a set."""
    base = on.base
    return choose_threshold(
        on.features,
        n_clusters=on.n_clusters,
        widest=Limits(-1.0, base.k_min, default_k_max(len(on.features), on.n_clusters, base.k_min)),
        recipe=base.recipe,
        seed=seed,
        partitioners=PARTITIONERS,
        precision=base.precision,
    )


def _curve(measure: Measured, evidence: Evidence) -> str:
    """A Markdown table of every third point of the evidence beside the true accuracy."""
    on, base = measure.on, measure.on.base
    k_max = default_k_max(len(on.features), on.n_clusters, base.k_min)
    lists = mine(on.features, Limits(-1.0, base.k_min, k_max))
    rows = []
    for point in evidence.curve[::3]:
        cut = apply_limits(lists, Limits(point.threshold, base.k_min, k_max))
        true = pair_accuracy(cut, torch.from_numpy(on.classes))
        percent = (f"{100 * value:.1f}" for value in (point.accuracy, true))
        rows.append([f"{point.threshold:.3f}", f"{point.mean_neighbors:.1f}", *percent])
    header = ["threshold", "neighbours", "of class %, estimated", "of class %, true"]
    return table("Threshold without labels", header, rows)
