"""What an update says of the run's classes: see `core.novelty`; on samples of both, in one task."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from icce_ray.core.novelty import KNOWN_SAMPLE, NEW_SAMPLE, UNSURE, Finding, drift, far_images, unsure
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult, predict
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.store import Store
from icce_ray.store.artifacts import NOVELTY, PREDICTIONS

#: Images of a candidate that are named, most central first.
NAMED = 24


def label(run: Store, update: Store, settings: Settings, resources: Resources, progress: Progress) -> StageResult:
    """Stage `predict` of an update: labels by the run's classifier, and what they and the features say of it.

    `alarms` in the summary are why a new training is due; there are none for an update without accepted images.
    """
    files, summary = predict.run(settings, update, resources, progress, classifier=run.root)
    alarms: list[dict[str, str]] = []
    if summary["labelled"]:
        info, alarms = ray.get(_novelty.remote(run.root, update.root, files, summary["class_sizes"]))
        files = [*files, info]
    return files, summary | {"alarms": alarms}


@ray.remote(num_cpus=1)
def _novelty(root: str, new_root: str, labelled: list[FileInfo], sizes: list[int]) -> Any:
    run, update = Store(root), Store(new_root)
    predicted = run.require("predict")
    known = _Sample.of(run, predicted.files, KNOWN_SAMPLE)
    new = _Sample.of(update, labelled, NEW_SAMPLE)
    far = far_images(known.features, known.label, new.features)
    shares = unsure(known.confidence, new.confidence)
    mixture = drift(np.array(predicted.summary["class_sizes"]), np.array(sizes))
    scale = sum(sizes) / len(new.ids)
    content = {
        "unsure": [shares.value, shares.limit],
        "drift": [mixture.value, mixture.limit],
        "far": far.share,
        "candidates": [[round(one.images * scale), new.ids[one.rows[:NAMED]].tolist()] for one in far.candidates],
    }
    update.storage.write_bytes(NOVELTY.path, json.dumps(content, indent=1).encode())
    alarms = _alarms(shares, mixture, [images for images, _ in content["candidates"]], sum(sizes))
    return update.storage.describe(NOVELTY.path), [{"text": text} for text in alarms]


class _Sample(NamedTuple):
    """A uniform sample of a store's accepted images."""

    features: torch.Tensor
    ids: np.ndarray
    label: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, store: Store, labelled: list[FileInfo], most: int) -> _Sample:
        """Of `most` images or all; their labels are in the files `labelled`, row by row those of the features."""
        rows, labels = FeatureRows.of(store), FeatureRows(store.root, tuple(PREDICTIONS.files(labelled)))
        wanted = uniform_rows(len(rows), min(most, len(rows)), seed=0)
        table = labels.take(wanted, ["image_id", "label", "confidence"])
        return cls(torch.from_numpy(rows.taken(wanted)), *(table[name].to_numpy() for name in table.column_names))


def _alarms(shares: Finding, mixture: Finding, candidates: list[int], images: int) -> list[str]:
    """Why a new training is advised, for people: value, limit, and what it may mean."""
    found = [
        f"about {size:,} of {images:,} new images lie together and far from every class: a candidate for a new class"
        for size in candidates
    ]
    if shares.alarming:
        found.append(
            f"{shares.value:.1%} of the new images have a lower confidence than all but {UNSURE:.0%} of the run's own "
            f"(limit {shares.limit:.1%}): they are not like those that the classes were found from"
        )
    if mixture.alarming:
        found.append(
            f"the new images share out among the classes in another way: total variation {mixture.value:.3f} from the "
            f"run's (limit {mixture.limit:.3f}); if that is no surprise, the classes may still serve"
        )
    return found
