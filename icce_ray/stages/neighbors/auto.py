"""`clusters: auto` and `neighbors.threshold: auto`: numbers from pilot trainings on a sample, before anything is mined.

The sample has the same size however many images there are, and so has the cost: a task on the device for each training,
as many at a time as the cluster has room for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from icce_ray.core import cluster_count
from icce_ray.core.neighbors import Limits, Neighbors, default_k_max
from icce_ray.core.pilot import choose_threshold, pilot_rows, scaled
from icce_ray.core.recipe import Recipe
from icce_ray.core.sampling import uniform_rows
from icce_ray.progress import Progress
from icce_ray.search.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose, with_choice
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLUSTERS_EVIDENCE, THRESHOLD_EVIDENCE, Document


def find_numbers(
    settings: Settings,
    store: Store,
    rows: FeatureRows,
    facts: dict[str, Any],
    resources: Resources,
    progress: Progress,
) -> tuple[Settings, list[str]]:
    """The settings with numbers in place of `auto` and None, and the files that say what was chosen from what.

    `facts` are what the recipe depends on beside them (`choosing.choose`). What a killed run has found is kept. Raises
    RunError if there are too few images.
    """
    files = []
    if settings.count_unknown:
        pilots = with_choice(settings, choose(settings, **facts))
        evidence = kept(store, CLUSTERS_EVIDENCE, lambda: _count_clusters(pilots, rows, resources, progress))
        low, high = evidence.get("interval", 2 * [evidence["clusters"]])  # 0.1.0 kept none
        progress.log(
            f"clusters = auto: {evidence['clusters']} (the spectrum of the heads drops to {evidence['ratio']:.0%} there"
            f"; numbers from {low} to {high} are nearly as clear; the neighbour graph, which asks no head, has its "
            f"clearest gaps at {', '.join(map(str, evidence.get('graph', []))) or 'no number'})"
        )
        settings = settings.model_copy(update={"clusters": evidence["clusters"]})
        files.append(CLUSTERS_EVIDENCE.path)
    choice = choose(settings, **facts)
    progress.log(f"recipe: {choice.describe()}")
    settings = with_choice(settings, choice)
    if settings.neighbors.threshold == "auto" and settings.neighbors.mode == "adaptive":
        document = THRESHOLD_EVIDENCE.of(rows.space)
        evidence = kept(store, document, lambda: _find_threshold(settings, rows, resources, progress))
        point = min(evidence["curve"], key=lambda point: abs(point["threshold"] - evidence["threshold"]))
        progress.log(
            f"threshold {evidence['threshold']:.4f}: {point['accuracy']:.1%} of the neighbours are estimated to be of "
            f"the image's class, {evidence['floor']:.1%} are asked for"
        )
        found = settings.neighbors.model_copy(update={"threshold": evidence["threshold"]})
        settings = settings.model_copy(update={"neighbors": found})
        files.append(document.path)
    return settings, files


def kept(store: Store, evidence: Document, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `find` returns now, or did in a run that was killed since."""
    if not store.storage.exists(evidence.path):
        store.storage.write_bytes(evidence.path, json.dumps(find(), indent=1).encode())
    return store.document(evidence)


def _find_threshold(settings: Settings, rows: FeatureRows, resources: Resources, progress: Progress) -> dict[str, Any]:
    progress.log("neighbors.threshold = auto: a pilot training ...")
    pilot = _threshold.options(num_cpus=1, num_gpus=resources.gpu_share)
    return ray.get(pilot.remote(settings, rows, resources.device, resources.cores))


@ray.remote(max_retries=2)
def _threshold(settings: Settings, rows: FeatureRows, device: str, threads: int) -> dict[str, Any]:
    """The evidence for a threshold as plain values, with the number of images it was found on."""
    torch.set_num_threads(threads)
    features = torch.from_numpy(_sample(rows, pilot_rows(len(rows), settings.clusters), settings.seed)).to(device)
    k_min, k_max = settings.neighbors.k_min, settings.neighbors.k_max
    k_max = k_max or default_k_max(len(rows), settings.clusters, k_min)
    evidence = choose_threshold(
        features,
        n_clusters=settings.clusters,
        widest=Limits(-1.0, scaled(k_min, len(features), len(rows)), scaled(k_max, len(features), len(rows))),
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        partitioners=PARTITIONERS_BESIDE_RAY,
        precision=settings.heads.precision,
    )
    return dataclasses.asdict(evidence) | {"images": len(features)}


def _count_clusters(settings: Settings, rows: FeatureRows, resources: Resources, progress: Progress) -> dict[str, Any]:
    """The evidence for a number of clusters as plain values, with the number of images it was found on."""
    try:
        low, high = cluster_count.in_reach(len(rows), settings.neighbors.k_min, *settings.neighbors.cluster_range)
    except ValueError as error:
        raise RunError(str(error)) from error
    size = pilot_rows(len(rows), high)
    k_min = scaled(settings.neighbors.k_min, size, len(rows))
    tried = cluster_count.counts_to_try(low, high)
    progress.log(f"clusters = auto: {len(tried)} pilot trainings on {size:,} images with {low} to {tried[-1]} clusters")
    progress.begin(len(tried), unit="trainings")
    share = {"num_cpus": 1, "num_gpus": resources.gpu_share}
    shared = _nearest.options(**share).remote(rows, settings.seed, size, (low, high), k_min, resources.device)
    pilot = _labels.options(**share)
    threads = max(1, resources.cores // len(tried))
    # The largest take longest, so they begin first.
    labels = {
        count: pilot.remote(shared, settings, count, k_min, resources.device, threads) for count in reversed(tried)
    }
    pending = list(labels.values())
    while pending:
        _, pending = ray.wait(pending, fetch_local=False)  # the driver sees no labels
        progress.update(len(tried) - len(pending))
    graph = _graph.remote(shared, low, high)
    evidence = ray.get(_evidence.remote(low, high, graph, tried, *(labels[count] for count in tried)))
    return dataclasses.asdict(evidence) | {"ratio": evidence.ratio, "interval": evidence.interval, "images": size}


def _sample(rows: FeatureRows, size: int, seed: int) -> np.ndarray:
    """A uniform sample of the features, [size, D]."""
    return rows.taken(uniform_rows(len(rows), size, seed))


@ray.remote(max_retries=2)
def _nearest(
    rows: FeatureRows, seed: int, size: int, reach: tuple[int, int], k_min: int, device: str
) -> tuple[np.ndarray, ...]:
    """What all pilots share: features, and offsets, ids and similarities of their neighbours."""
    features = _sample(rows, size, seed)
    low, high = reach
    lists = cluster_count.nearest(torch.from_numpy(features).to(device), low=low, high=high, k_min=k_min)
    return features, *(part.cpu().numpy() for part in (lists.offsets, lists.ids, lists.similarities))


@ray.remote(max_retries=2)
def _labels(
    shared: tuple[np.ndarray, ...], settings: Settings, count: int, k_min: int, device: str, threads: int
) -> np.ndarray:
    """Labels of the pilot with one number of clusters, int32[n, heads]."""
    torch.set_num_threads(threads)
    features, *lists = (torch.tensor(part, device=device) for part in shared)  # what Ray shares must not be written to
    return cluster_count.labels_of(
        features,
        Neighbors(*lists),
        count,
        k_min=k_min,
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        precision=settings.heads.precision,
    )


@ray.remote(num_cpus=1)
def _graph(shared: tuple[np.ndarray, ...], low: int, high: int) -> tuple[int, ...]:
    return cluster_count.graph_gaps(Neighbors(*(torch.tensor(part) for part in shared[1:])), low, high)


@ray.remote(num_cpus=1)
def _evidence(
    low: int, high: int, graph: tuple[int, ...], tried: list[int], *labels: np.ndarray
) -> cluster_count.CountEvidence:
    return cluster_count.evidence(dict(zip(tried, labels, strict=True)), low, high, graph)
