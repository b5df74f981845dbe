"""`clusters: auto`: pilot trainings with many numbers of clusters, as many at a time as the cluster has room for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError

from icce_ray.core import cluster_count as core
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.pilot import pilot_rows, scaled
from icce_ray.core.recipe import Recipe
from icce_ray.core.sampling import uniform_rows
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError


def count_clusters(settings: Settings, rows: FeatureRows, resources: Resources, progress: Progress) -> dict[str, Any]:
    """The evidence for a number of clusters as plain values, with the number of images it was found on.

    Raises RunError if there are too few images.
    """
    try:
        low, high = core.in_reach(len(rows), settings.neighbors.k_min, *settings.neighbors.cluster_range)
    except ValueError as error:
        raise RunError(str(error)) from error
    size = pilot_rows(len(rows), high)
    k_min = scaled(settings.neighbors.k_min, size, len(rows))
    tried = core.counts_to_try(low, high)
    progress.log(f"clusters = auto: {len(tried)} pilot trainings on {size:,} images with {low} to {tried[-1]} clusters")
    progress.begin(len(tried), unit="trainings")
    values, share = settings.model_dump(), {"num_cpus": 1, "num_gpus": resources.gpu_share}
    shared = _nearest.options(**share).remote(rows, settings.seed, size, low, high, k_min, resources.device)
    pilot = _labels.options(**share)
    threads = max(1, resources.cores // len(tried))
    # The largest take longest, so they begin first.
    labels = {count: pilot.remote(shared, values, count, k_min, resources.device, threads) for count in reversed(tried)}
    pending = list(labels.values())
    while pending:
        _, pending = ray.wait(pending, fetch_local=False)  # the driver sees no labels
        progress.update(len(tried) - len(pending))
    try:
        found = ray.get(_evidence.remote(low, high, tried, *(labels[count] for count in tried)))
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):  # what a task says of its input, without its trace
            raise RunError(str(error.cause)) from error
        raise
    return dataclasses.asdict(found) | {"ratio": found.ratio, "images": size}


def sampled(rows: FeatureRows, size: int, seed: int) -> np.ndarray:
    """A uniform sample of the features, [size, D]."""
    chosen = uniform_rows(len(rows), size, seed)
    pieces = []
    for start, stop in rows.blocks():
        own = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
        if len(own):
            pieces.append(rows.features(start, stop)[own - start])
    return np.concatenate(pieces)


@ray.remote(max_retries=2)
def _nearest(
    rows: FeatureRows, seed: int, size: int, low: int, high: int, k_min: int, device: str
) -> tuple[np.ndarray, ...]:
    """What all pilots share: features, and offsets, ids and similarities of their neighbours."""
    features = sampled(rows, size, seed)
    lists = core.nearest(torch.from_numpy(features).to(device), low=low, high=high, k_min=k_min)
    return features, *(part.cpu().numpy() for part in (lists.offsets, lists.ids, lists.similarities))


@ray.remote(max_retries=2)
def _labels(
    shared: tuple[np.ndarray, ...], values: dict[str, Any], count: int, k_min: int, device: str, threads: int
) -> np.ndarray:
    """Labels of the pilot with one number of clusters, int32[n, heads]."""
    torch.set_num_threads(threads)
    settings = Settings.model_validate(values)
    features, *lists = (torch.tensor(part, device=device) for part in shared)  # what Ray shares must not be written to
    return core.labels_of(
        features,
        Neighbors(*lists),
        count,
        k_min=k_min,
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        precision=settings.heads.precision,
    )


@ray.remote(num_cpus=1)
def _evidence(low: int, high: int, tried: list[int], *labels: np.ndarray) -> core.CountEvidence:
    return core.evidence(dict(zip(tried, labels, strict=True)), low, high)
