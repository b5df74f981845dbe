"""Scores against true labels, named for people."""

from __future__ import annotations

from typing import Any

from icce_ray.settings import Settings
from icce_ray.store import Store


def headline(settings: Settings, store: Store, figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of each labelling of an evaluation in the order of the method, for a table."""
    kept = store.marker("consensus")
    names = {
        "kmeans": "k-means on the same features",
        "mean_head": f"mean of {settings.heads.heads} heads",
        "best_head": "best head (lowest loss)",
        "consensus": f"consensus ({kept.summary['method']})" if kept else "consensus",
        "classifier_seen": "classifier, seen images",
        "classifier_rest": "classifier, images outside the sample",
        "classifier_unseen": "classifier, unseen images",
    }
    return [(text, figures[name]) for name, text in names.items() if name in figures]
