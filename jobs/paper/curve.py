"""Table 11's neighbours on synthetic features: how many reach a threshold, and how many of them are of the class."""

from __future__ import annotations

import torch

from icce_ray.core.neighbors import Limits, apply_limits, default_k_max
from icce_ray.core.search import search_shard, unit_rows
from icce_ray.core.selection import pair_accuracy
from jobs.paper.studies import TABLE_11
from jobs.paper.synthetic import FeatureModel, draw, scaled_k_min
from jobs.paper.tables import table

#: Images whose neighbours are looked for: of 4,000 the mean is known to about a percent.
QUERIES = 4000


def curve(model: FeatureModel, n_images: int, seed: int = 0) -> str:
    """Counts, scaled to the paper's 1,285 images a class, and accuracies beside the paper's, as a Markdown table."""
    drawn, _ = draw(model, n_images, seed)
    k_min = scaled_k_min(n_images, model.n_clusters)
    k_max = default_k_max(n_images, model.n_clusters, k_min)
    base = unit_rows(drawn.features)
    queries = torch.arange(min(QUERIES, n_images))
    found = search_shard(base[queries], base, Limits(0.1, k_min, k_max), query_rows=queries, first_base=0)
    scale = 1285 / (n_images / model.n_clusters)
    rows = []
    for threshold, (count, share, _) in list(TABLE_11.items())[1:]:
        lists = apply_limits(found, Limits(threshold, k_min, k_max))
        own, accuracy = scale * float(lists.counts.double().mean()), 100 * pair_accuracy(lists, drawn.classes)
        off = f"{100 * (own / count - 1):+.1f}", f"{accuracy - (share or 0.0):+.2f}"
        rows.append([threshold, f"{own:.1f}", count, off[0], f"{accuracy:.2f}", share, off[1]])
    title = f"Table 11, neighbours: synthetic, {n_images:,} x {model.dim}, K = {model.n_clusters}"
    return table(title, ["threshold", "neighbours", "paper", "off %", "of class %", "paper", "off"], rows)
