"""`clusters: auto` and `neighbors.threshold: auto`: numbers from pilot trainings on a sample, before anything is mined.

The sample has the same size however many images there are, and so has the cost: a task on the device for each training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import ray
import torch

from icce_ray.adapters.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.core.neighbors import default_k_max
from icce_ray.core.pilot import choose_threshold, pilot_rows, scaled
from icce_ray.core.recipe import Recipe
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors.count import count_clusters, sampled
from icce_ray.store import Store
from icce_ray.store.artifacts import CLUSTERS_EVIDENCE, THRESHOLD_EVIDENCE, Document
from icce_ray.store.run import with_numbers


def resolved(
    settings: Settings, store: Store, rows: FeatureRows, resources: Resources, progress: Progress
) -> tuple[Settings, list[str]]:
    """The settings with numbers in place of `auto`, and the files that say what these were chosen from.

    What a killed run has found is kept. Raises RunError if there are too few images.
    """
    files = []
    if settings.count_unknown:
        found = _kept(store, CLUSTERS_EVIDENCE, lambda: count_clusters(settings, rows, resources, progress))
        second = sorted(found["curve"], key=lambda drop: drop["ratio"])[1:2]
        progress.log(
            f"clusters = auto: {found['clusters']} (the spectrum of the heads drops to {found['ratio']:.0%} there"
            + "".join(f"; next best {drop['clusters']}, {drop['ratio']:.0%}" for drop in second)
            + ")"
        )
        settings = with_numbers(settings, found)
        files.append(CLUSTERS_EVIDENCE.path)
    if settings.neighbors.threshold == "auto" and settings.neighbors.mode == "adaptive":
        found = _kept(store, THRESHOLD_EVIDENCE, lambda: _threshold_of(settings, rows, resources, progress))
        point = min(found["curve"], key=lambda point: abs(point["threshold"] - found["threshold"]))
        progress.log(
            f"threshold {found['threshold']:.4f}: {point['accuracy']:.1%} of the neighbours are estimated to be of "
            f"the image's class, {found['floor']:.1%} are asked for"
        )
        settings = with_numbers(settings, found)
        files.append(THRESHOLD_EVIDENCE.path)
    return settings, files


def _kept(store: Store, evidence: Document, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is found now, or was in a run that was killed since."""
    if not store.storage.exists(evidence.path):
        store.storage.write_bytes(evidence.path, json.dumps(find(), indent=1).encode())
    return store.document(evidence)


def _threshold_of(settings: Settings, rows: FeatureRows, resources: Resources, progress: Progress) -> dict[str, Any]:
    progress.log("neighbors.threshold = auto: a pilot training ...")
    pilot = _threshold.options(num_cpus=1, num_gpus=resources.gpu_share)
    return ray.get(pilot.remote(settings.model_dump(), rows, resources.device, resources.cores))


@ray.remote(max_retries=2)
def _threshold(values: dict[str, Any], rows: FeatureRows, device: str, threads: int) -> dict[str, Any]:
    """The evidence for a threshold as plain values, with the number of images it was found on."""
    torch.set_num_threads(threads)
    settings = Settings.model_validate(values)
    features = torch.from_numpy(sampled(rows, pilot_rows(len(rows), settings.clusters), settings.seed)).to(device)
    k_min, k_max = settings.neighbors.k_min, settings.neighbors.k_max
    k_max = k_max or default_k_max(len(rows), settings.clusters, k_min)
    evidence = choose_threshold(
        features,
        n_clusters=settings.clusters,
        k_min=scaled(k_min, len(features), len(rows)),
        k_max=scaled(k_max, len(features), len(rows)),
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        partitioners=PARTITIONERS_BESIDE_RAY,
        precision=settings.heads.precision,
    )
    return dataclasses.asdict(evidence) | {"images": len(features)}
