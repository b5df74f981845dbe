"""`neighbors.threshold: auto`: a number from a pilot training on a sample, before anything is mined (`core.pilot`).

The sample has the same size however many images there are, and so has the cost: one task on the device.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import ray
import torch

from icce_ray.adapters.partition import mtkahypar_hypergraph
from icce_ray.adapters.partition_apart import metis_graph_apart
from icce_ray.adapters.progress import StageProgress
from icce_ray.core.neighbors import default_k_max
from icce_ray.core.pilot import choose_threshold, pilot_rows, scaled
from icce_ray.core.recipe import Recipe
from icce_ray.core.sampling import uniform_rows
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources
from icce_ray.stages.rows import FeatureRows
from icce_ray.store import ARTIFACTS, Store

EVIDENCE = f"{ARTIFACTS['neighbors']}/threshold.json"


def resolved(
    settings: Settings, store: Store, rows: FeatureRows, resources: Resources, progress: StageProgress
) -> Settings:
    """The settings with a number in place of `auto`, which a killed run has found before.

    The number and what it was chosen from are in `EVIDENCE` then.
    """
    if settings.neighbors.threshold != "auto" or settings.neighbors.mode != "adaptive":
        return settings
    if not store.storage.exists(EVIDENCE):
        progress.say("neighbors.threshold = auto: a pilot training ...")
        task = _pilot.options(num_cpus=1, num_gpus=resources.gpu_share)
        found = ray.get(task.remote(settings.model_dump(), store.root, rows, resources.device, resources.cores))
        store.storage.write_bytes(EVIDENCE, json.dumps(found, indent=1).encode())
    found = json.loads(store.storage.read_bytes(EVIDENCE))
    point = min(found["curve"], key=lambda point: abs(point["threshold"] - found["threshold"]))
    progress.say(
        f"threshold {found['threshold']:.4f}: {point['accuracy']:.1%} of the neighbours are estimated to be of the "
        f"image's class, {found['floor']:.1%} are asked for"
    )
    chosen = settings.neighbors.model_copy(update={"threshold": found["threshold"]})
    return settings.model_copy(update={"neighbors": chosen})


def known(settings: Settings, store: Store) -> Settings:
    """The settings with the number that the stage found in place of `auto`, if it is complete."""
    marker = store.marker("neighbors")
    if settings.neighbors.threshold != "auto" or marker is None:
        return settings
    chosen = settings.neighbors.model_copy(update={"threshold": marker.summary["threshold"]})
    return settings.model_copy(update={"neighbors": chosen})


@ray.remote(max_retries=2)
def _pilot(values: dict[str, Any], root: str, rows: FeatureRows, device: str, threads: int) -> dict[str, Any]:
    """The evidence as plain values, with the number of images it was found on."""
    torch.set_num_threads(threads)
    settings = Settings.model_validate(values)
    chosen = uniform_rows(len(rows), pilot_rows(len(rows), settings.clusters), settings.seed)
    pieces = []
    for start, stop in rows.blocks():
        own = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
        if len(own):
            pieces.append(rows.features(start, stop)[own - start])
    features = torch.from_numpy(np.concatenate(pieces)).to(device)
    k_min, k_max = settings.neighbors.k_min, settings.neighbors.k_max
    k_max = k_max or default_k_max(len(rows), settings.clusters, k_min)
    evidence = choose_threshold(
        features,
        n_clusters=settings.clusters,
        k_min=scaled(k_min, len(features), len(rows)),
        k_max=scaled(k_max, len(features), len(rows)),
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        graph_partitioner=metis_graph_apart,
        hypergraph_partitioner=mtkahypar_hypergraph,
        precision=settings.heads.precision,
    )
    return dataclasses.asdict(evidence) | {"images": len(features)}
