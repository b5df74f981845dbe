"""What the updates of a run say of its classes, and cards of the candidates for new ones."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject
from icce_ray.io.sources import SourceError
from icce_ray.progress import Progress
from icce_ray.report.pool import thumbnails
from icce_ray.store import Store
from icce_ray.store.artifacts import NOVELTY
from icce_ray.store.updates import updates

#: Longest side of a picture in pixels, pictures of a candidate, and bytes of all pictures of an update.
SIDE, PICTURES, BUDGET = 80, 24, 250_000


def grown(store: Store, progress: Progress) -> list[dict[str, Any]]:
    """Each update with its figures, as plain values for the page; of one that is not complete, its images only."""
    found = []
    for number, one in enumerate(updates(store), 1):
        listed, labelled = one.require("list"), one.marker("predict")
        row = {"number": number, "source": one.images()[0], "listed": listed.summary, "labelled": None, "novelty": None}
        if labelled is not None:
            row["labelled"] = labelled.summary
            row["rejected"] = one.require("embed").summary["rejected"]
            row["novelty"] = one.document(NOVELTY) if labelled.summary["labelled"] else None
            row["cards"] = _cards(one, row["novelty"]["candidates"], progress) if row["novelty"] else []
        found.append(row)
    return found


def _cards(one: Store, candidates: list[tuple[int, list[int]]], progress: Progress) -> list[dict[str, Any]]:
    """About how many images, and (name, picture in base64 or why there is none) of the most central ones."""
    if not candidates:
        return []
    try:
        images = RunImages(one)
    except SourceError as error:
        return [{"images": size, "about": f"No pictures: {error}.", "tiles": []} for size, _ in candidates]
    shown = [ids[:PICTURES] for _, ids in candidates]
    wanted = np.array([ids[rank] for rank in range(PICTURES) for ids in shown if rank < len(ids)], np.int64)
    files = thumbnails(images, wanted, SIDE, progress, budget=BUDGET) if images.has_pixels else {}
    rows = images.rows(wanted).select(["image_id", "uri"]).to_pylist()
    named = {row["image_id"]: row["uri"] for row in rows}
    return [
        {"images": size, "about": "", "tiles": [(named[image_id], *_shown(files.get(image_id))) for image_id in ids]}
        for (size, _), ids in zip(candidates, shown, strict=True)
    ]


def _shown(data: bytes | Reject | None) -> tuple[str, str]:
    """A picture, or why it cannot be shown; neither for one that has no place on the page."""
    if isinstance(data, Reject):
        return "", str(data)
    return (base64.b64encode(data).decode() if data else ""), ""
