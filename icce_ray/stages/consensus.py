"""Stage `consensus`: one labelling from the labels of all heads, the candidate of highest ANMI kept (paper 3.2).

Each method is a Ray task of its own and leaves its candidate behind, so that a killed run repeats only those that were
not finished. The driver sees scores, never labels.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.adapters.partition import metis_graph, mtkahypar_hypergraph
from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.core.consensus.clusters import collapse
from icce_ray.core.consensus.ensemble import best_method, candidate, settle
from icce_ray.core.consensus.partitioning import ConsensusSizeError
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, run_bounded
from icce_ray.stages.rows import FeatureRows, matrix
from icce_ray.store import ARTIFACTS, HEAD_LABELS, RunError, Store

ARTIFACT = ARTIFACTS["consensus"]
SCORES = "consensus/scores.json"
CANDIDATES = "consensus/candidates"


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Run every method, keep the best, write label and agreement of each image."""
    methods = settings.consensus.methods
    progress.begin(len(methods) + 1, unit="steps")
    scores: dict[str, float] = {}
    refused: dict[str, str] = {}

    def on_result(result: tuple[str, float | None, str]) -> None:
        method, score, reason = result
        if score is None:
            refused[method] = reason
            progress.say(f"{method} refused: {reason}")
        else:
            scores[method] = score
        progress.update(len(scores) + len(refused))

    def submit(index: int) -> Any:
        return _candidate.remote(store.root, methods[index], settings.clusters, settings.seed)

    run_bounded(submit, range(len(methods)), limit=max(1, resources.cores), on_result=on_result)
    if not scores:
        raise RunError(f"no consensus: every method refused: {refused}")
    ordered = {name: scores[name] for name in methods if name in scores}
    method = best_method(ordered)
    files, kept = ray.get(_keep.remote(store.root, method, settings.clusters))
    progress.update(len(methods) + 1)
    progress.say(f"{method} kept: ANMI {kept['anmi']:.4f}, mean agreement {kept['mean_agreement']:.1%}")
    summary = {"method": method, "scores": ordered, "refused": refused} | kept
    store.storage.write_bytes(SCORES, json.dumps(summary, indent=1).encode())
    store.storage.delete_tree(CANDIDATES)
    return [*files, store.storage.describe(SCORES)], summary


@ray.remote(num_cpus=0.5)
def _candidate(root: str, method: str, clusters: int, seed: int) -> tuple[str, float | None, str]:
    """One method's labels and ANMI, on storage; (method, ANMI, "") or (method, None, why it refused)."""
    storage = Store(root).storage
    path = f"{CANDIDATES}/{method}.parquet"
    if storage.exists(path):
        return method, float(storage.read_table(path).schema.metadata[b"anmi"]), ""
    try:
        label, score = candidate(
            collapse(head_labels(Store(root))),
            clusters,
            method,
            graph_partitioner=metis_graph,
            hypergraph_partitioner=mtkahypar_hypergraph,
            seed=seed,
        )
    except ConsensusSizeError as reason:
        return method, None, str(reason)
    table = pa.table({"label": label}).replace_schema_metadata({"anmi": repr(float(score))})
    storage.write_table(path, table)
    return method, float(score), ""


@ray.remote(num_cpus=0.5)
def _keep(root: str, method: str, clusters: int) -> tuple[list[FileInfo], dict[str, Any]]:
    """Refine the kept candidate and write it, one part for each part of the features."""
    store = Store(root)
    label = store.storage.read_table(f"{CANDIDATES}/{method}.parquet")["label"].to_numpy()
    settled = settle(collapse(head_labels(store)), label, clusters)
    rows = FeatureRows.training(store)
    files = []
    for index, (start, stop) in enumerate(rows.blocks()):
        part = rows.table(start, stop, ["image_id", "uri", "key"])
        part = part.append_column("label", pa.array(settled.label[start:stop]))
        part = part.append_column("agreement", pa.array(settled.agreement[start:stop]))
        files.append(store.storage.write_table(Store.part(ARTIFACT, index), part))
    sizes = np.bincount(settled.label, minlength=clusters)
    summary = {
        "anmi": settled.anmi,
        "votes": settled.votes,
        "mean_agreement": float(settled.agreement.mean()),
        "cluster_sizes": sizes.tolist(),
        "empty_clusters": int((sizes == 0).sum()),
    }
    return files, summary


def head_labels(store: Store) -> np.ndarray:
    """Labels of all images under all heads, int32[N, H], in the order of image_id."""
    files = store.require("heads").rows_of(HEAD_LABELS)
    return np.concatenate([matrix(store.storage.read_table(info.path, ["labels"])["labels"]) for info in files])


def labels(store: Store) -> np.ndarray:
    """The consensus label of all images, int32[N], in the order of image_id."""
    files = store.require("consensus").rows_of(f"{ARTIFACT}/part-")
    return np.concatenate([store.storage.read_table(info.path, ["label"])["label"].to_numpy() for info in files])
