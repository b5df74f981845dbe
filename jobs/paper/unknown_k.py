"""`clusters: auto` against the truth: the number found without labels, what speaks for it, and what it costs (ours)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from icce_ray.core.cluster_count import CountEvidence, choose_clusters, in_reach
from jobs.paper.feature_sets import FeatureSet
from jobs.paper.measure import Measured
from jobs.paper.tables import table

#: Numbers of clusters shown for each seed, those of the clearest drops.
SHOWN = 4


def unknown_k(measure: Measured, seeds: Sequence[int], cluster_range: tuple[int, int]) -> str:
    """A Markdown table of the number found by seed, the clearest drops, and the seconds."""
    on = measure.on
    rows, wrong = [], []
    for seed in seeds:
        started = time.monotonic()
        found = _found(on, seed, cluster_range)
        seconds = time.monotonic() - started
        measure.say(f"unknown_k, seed {seed}: {found.clusters} in {seconds:.0f} s")
        drops = sorted(found.curve, key=lambda drop: drop.ratio)[:SHOWN]
        shown = ", ".join(f"{drop.clusters} ({drop.ratio:.2f})" for drop in drops)
        low, high = found.interval
        graph = ", ".join(map(str, found.graph))
        rows.append([seed, f"{found.clusters} ({low} to {high})", shown, graph, f"{seconds:.0f}"])
        wrong.append(found.clusters - on.n_clusters)
    worst = max(wrong, key=abs)
    note = (
        f"- True K = {on.n_clusters}; found in {cluster_range[0]} to {cluster_range[1]}, at worst {worst:+d} "
        f"({100 * worst / on.n_clusters:+.0f} %)."
    )
    header = [
        "seed",
        "found (nearly as clear)",
        "next by evidence (eigenvalue ratio)",
        "eigengaps of the graph",
        "seconds",
    ]
    return table("Unknown number of clusters", header, rows, [note])


def _found(on: FeatureSet, seed: int, cluster_range: tuple[int, int]) -> CountEvidence:
    low, high = in_reach(len(on.features), on.base.k_min, *cluster_range)
    return choose_clusters(
        on.features,
        low=low,
        high=high,
        k_min=on.base.k_min,
        recipe=on.base.recipe,
        seed=seed,
        precision=on.base.precision,
    )
