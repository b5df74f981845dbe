"""Stage `consensus`: one labelling from the labels of all heads, the candidate of highest ANMI kept (paper 3.2).

MCLA and the votes work on shards of the head labels (`stages.ensemble`); the other methods cut graphs of distinct rows
of labels, each in one task, and refuse at once what is too large for them. Each method leaves its candidate behind, so
that a killed run repeats only those that were not finished. The driver sees scores, never labels.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.alarms import Alarm
from icce_ray.core.consensus.clusters import ConsensusSizeError, check_problem, collapse
from icce_ray.core.consensus.ensemble import (
    IMBALANCES,
    MAX_VOTES,
    alarms_of,
    best_meta_clusters,
    best_method,
    candidate,
    refine,
)
from icce_ray.core.consensus.graphs import check_rows
from icce_ray.core.consensus.tally import agreeing
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.search.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources
from icce_ray.stages.ensemble import Label, Shards
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.remote_progress import log_alarms
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CANDIDATES, CONSENSUS, CONSENSUS_SCORES, candidate_labels, candidate_score


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Run every method, keep the best, write label and agreement of each image."""
    steps = _Steps(progress, len(settings.consensus.methods) + 1)
    shards = Shards(store, steps.begin)
    results = _find_candidates(settings, store, shards, steps)
    refused = {method: result for method, result in results.items() if isinstance(result, str)}
    scores = {method: results[method] for method in settings.consensus.methods if method not in refused}
    if not scores:
        raise RunError(f"no consensus: every method refused: {refused}")
    method = best_method(scores)
    files, alarms, kept = _keep(settings, store, shards, method)
    steps.end(f"{method} kept: ANMI {kept['anmi']:.4f}, mean agreement {kept['mean_agreement']:.1%}")
    kept["alarms"] = log_alarms(alarms, progress)
    summary = {"method": method, "scores": scores, "refused": refused} | kept
    store.storage.write_bytes(CONSENSUS_SCORES.path, json.dumps(summary, indent=1).encode())
    store.storage.delete_tree(CANDIDATES)
    return [*files, store.storage.describe(CONSENSUS_SCORES.path)], summary


class _Steps:
    """Progress by steps that have ended, with the name of what is under way."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.done = progress, 0
        progress.begin(total, unit="steps")

    def begin(self, name: str) -> None:
        self.progress.update(self.done, now=name)

    def end(self, text: str = "") -> None:
        self.done += 1
        self.progress.update(self.done)
        if text:
            self.progress.log(text)


def _find_candidates(settings: Settings, store: Store, shards: Shards, steps: _Steps) -> dict[str, Any]:
    """Leave the candidate of each method on storage, unless it is there; its ANMI, or why the method refused."""
    results: dict[str, float | str] = {}

    def end(method: str, result: float | str) -> None:
        results[method] = result
        steps.end(f"{method} refused: {result}" if isinstance(result, str) else "")

    for method in settings.consensus.methods:
        if store.storage.exists(candidate_score(method).path):
            end(method, store.document(candidate_score(method))["anmi"])
    missing = [method for method in settings.consensus.methods if method not in results]
    rows = shards.distinct() if set(missing) - {"mcla"} else 0
    cuts = {}
    for method in missing:
        try:
            check_problem(shards.n_images, settings.clusters)
            check_rows(method, rows, shards.n_heads)
        except ConsensusSizeError as reason:
            end(method, str(reason))
            continue
        if method != "mcla":
            each = zip(shards.index, shards.counts, shards.columns, strict=True)
            arrays = [array for index, counts, columns in each for array in (index, counts, *columns)]
            task = _cut_rows.remote(store.root, method, settings.clusters, settings.seed, len(shards.parts), *arrays)
            cuts[task] = method
    if "mcla" in missing and "mcla" not in results:
        end("mcla", _mcla(settings, store, shards))
    while cuts:
        (ready, *_), _ = ray.wait(list(cuts), num_returns=1)
        end(cuts.pop(ready), ray.get(ready))
    return results


def _mcla(settings: Settings, store: Store, shards: Shards) -> float | str:
    """ANMI of MCLA's candidate, written by one task per shard, or why it refused."""
    partition = PARTITIONERS_BESIDE_RAY.graph
    try:
        label, counted = best_meta_clusters(shards, settings.clusters, partition, settings.seed, IMBALANCES)
    except ConsensusSizeError as reason:
        return str(reason)
    write: Any = ray.remote(num_cpus=0.5)(_write_candidate)
    pairs = enumerate(zip(label, shards.index, strict=True))
    ray.get([write.remote(store.root, "mcla", number, *pair) for number, pair in pairs])
    _finish_candidate(store, "mcla", counted.anmi)
    return counted.anmi


@ray.remote(num_cpus=1)
def _cut_rows(root: str, method: str, clusters: int, seed: int, shards: int, *arrays: Any) -> float | str:
    """ANMI of one method's candidate from the distinct rows of all shards, or why it refused.

    `arrays` are the index, the counts and the blocks of head labels of each shard.
    """
    each = len(arrays) // shards
    labels = [np.concatenate(arrays[first + 2 : first + each]).T for first in range(0, len(arrays), each)]
    index, counts = arrays[::each], arrays[1::each]
    pairs = zip(counts, labels, strict=True)
    images = [np.ones(len(rows), np.int64) if count is None else count for count, rows in pairs]
    try:
        distinct = collapse(np.concatenate(labels), np.concatenate(images))
        label, score = candidate(distinct, clusters, method, PARTITIONERS_BESIDE_RAY, seed)
    except ConsensusSizeError as reason:
        return str(reason)
    ends = np.cumsum([len(rows) for rows in labels])
    for number, (of_shard, rows) in enumerate(zip(np.split(label[distinct.index], ends[:-1]), index, strict=True)):
        _write_candidate(root, method, number, of_shard, rows)
    _finish_candidate(Store(root), method, score)
    return score


def _write_candidate(root: str, method: str, number: int, label: np.ndarray, index: np.ndarray | None) -> None:
    """Labels of the images of one shard, from those of its rows."""
    table = pa.table({"label": label if index is None else label[index]})
    candidate_labels(method).write(Store(root).storage, table, number)


def _finish_candidate(store: Store, method: str, score: float) -> None:
    """What says that the labels of all shards are there."""
    store.storage.write_bytes(candidate_score(method).path, json.dumps({"anmi": score}).encode())


@ray.remote(num_cpus=0.5)
def _read_candidate(root: str, method: str, number: int, index: np.ndarray | None) -> np.ndarray:
    """Labels of the rows of one shard: images of one row have one label, so any of them serves."""
    label = Store(root).storage.read_table(candidate_labels(method).part(number))["label"].to_numpy()
    if index is None:
        return label
    rows = np.empty(int(index.max()) + 1, dtype=np.int32)
    rows[index] = label
    return rows


def _keep(
    settings: Settings, store: Store, shards: Shards, method: str
) -> tuple[list[FileInfo], list[Alarm], dict[str, Any]]:
    """Refine the kept candidate and write it, one part for each part of the features."""
    start: Label = [_read_candidate.remote(store.root, method, i, index) for i, index in enumerate(shards.index)]
    label, counted, votes = refine(shards, start, settings.clusters, MAX_VOTES)
    rows = FeatureRows.training(store)
    each = zip(shards.parts, label, shards.index, shards.columns, strict=True)
    mapping = ray.put(counted.mapping)
    written = ray.get([_write.remote(rows, part, mapping, of, index, *columns) for part, of, index, columns in each])
    summary = {
        "anmi": counted.anmi,
        "votes": votes,
        "mean_agreement": sum(agreed for _, agreed in written) / (shards.n_images * shards.n_heads),
        "cluster_sizes": counted.sizes.tolist(),
        "empty_clusters": int((counted.sizes == 0).sum()),
    }
    alarms = alarms_of(shards, label, counted, summary["mean_agreement"])
    return [info for files, _ in written for info in files], alarms, summary


@ray.remote(num_cpus=0.5)
def _write(
    rows: FeatureRows,
    part: range,
    mapping: list[Any],
    label: np.ndarray,
    index: np.ndarray | None,
    *columns: np.ndarray,
) -> tuple[list[FileInfo], int]:
    """The files of one shard, and how often a head agrees with the label of an image."""
    agreed = agreeing(np.concatenate(columns).T, label, mapping)
    if index is not None:
        label, agreed = label[index], agreed[index]
    share = (agreed / sum(map(len, columns))).astype(np.float32)
    blocks, files = rows.blocks(), []
    first = blocks[part.start][0]
    for number in part:
        start, stop = blocks[number]
        table = rows.table(start, stop, ["image_id", "uri", "key"])
        table = table.append_column("label", pa.array(label[start - first : stop - first]))
        table = table.append_column("agreement", pa.array(share[start - first : stop - first]))
        files.append(CONSENSUS.write(Store(rows.root).storage, table, number))
    return files, int(agreed.sum())
