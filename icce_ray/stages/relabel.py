"""Stage `consensus` of a refined version: the labels of its base, and what people decided about them.

Classes are merged and numbered anew, moved images have the class that they were given, and a class to be split is cut
by a training on its images (`core.splitting`), a task a class. Labels are read and written shard by shard in tasks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.consensus.tally import Tally, agreeing, tally
from icce_ray.core.metrics import head_contingency
from icce_ray.core.splitting import Parts, split
from icce_ray.documents import sealed_json
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.search.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed, completed_groups
from icce_ray.stages.features import FeatureRows, matrix, read_column
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CHANGES_FILE, CONSENSUS, CONSENSUS_SCORES, HEAD_LABELS, PREDICTIONS
from icce_ray.store.versions import Refinement
from icce_ray.store.views import spaces_of

#: Method of the consensus of a version: no method of several.
METHOD = "refined"


def run(
    settings: Settings,
    base: Store,
    version: Store,
    refinement: Refinement,
    resources: Resources,
    progress: Progress,
) -> StageResult:
    """Labels and agreements of the version from those of its base; figures as those of the consensus."""
    files = [info.path for info in CONSENSUS.files(base.require("consensus").files)]
    head_files = [info.path for info in HEAD_LABELS.files(base.require("heads").files)]
    run, merges = Store(str(version.origin)), len(refinement.parts) > len(set(map(tuple, refinement.parts)))
    # Heads that divide a class as the base had it agree once its halves are merged.
    before = _tally(base, run, files, head_files, len(refinement.parts)) if merges else None
    shared = ray.put((refinement, before and before.mapping))
    parts = ray.put(_parts(settings, base, refinement, resources, progress))
    written: list[FileInfo] = []
    sizes, agreed = np.zeros(refinement.classes, np.int64), 0.0
    shards = list(enumerate(zip(files, head_files, strict=True)))
    tasks = completed_groups(
        lambda group: _relabel.remote(base.root, version.root, group, shared, parts), shards, cpus=0.5
    )
    for infos, counts, shares in sorted(tasks, key=lambda one: one[0][0].path):
        written += infos
        sizes += counts
        agreed += shares
    summary = {
        "method": METHOD,
        "scores": {},
        "refused": {},
        "anmi": _tally(version, run, [info.path for info in written], head_files, refinement.classes).anmi,
        "votes": 0,
        "mean_agreement": agreed / max(1, int(sizes.sum())),
        "cluster_sizes": sizes.tolist(),
        "empty_clusters": int((sizes == 0).sum()),
        "alarms": [],
    }
    version.storage.write_bytes(CONSENSUS_SCORES.path, json.dumps(summary, indent=1).encode())
    return [*written, version.storage.describe(CONSENSUS_SCORES.path)], summary


# -- agreement -----------------------------------------------------------------------------------------------------


def _tally(store: Store, run: Store, files: list[str], head_files: list[str], classes: int) -> Tally:
    """The labels of a run or a version against its heads. Tables of both are summed up here; none grows with images."""
    # The clusters of the heads are those of the run, whatever its versions made of them.
    heads, clusters = run.require("heads").summary["heads"], len(run.require("consensus").summary["cluster_sizes"])
    sizes, tables, pairs = np.full(heads, clusters), [], list(zip(files, head_files, strict=True))
    for counted in completed_groups(lambda group: _tables.remote(store.root, group, sizes, classes), pairs, cpus=0.5):
        tables = [one + other for one, other in zip(tables, counted, strict=True)] if tables else counted
    return tally(tables)


@ray.remote(num_cpus=0.5)
def _tables(root: str, group: Sequence[tuple[str, str]], sizes: np.ndarray, classes: int) -> list[Any]:
    storage = Store(root).storage
    label = np.concatenate([storage.read_table(path, ["label"])["label"].to_numpy() for path, _ in group])
    labels = np.concatenate([matrix(storage.read_table(path, ["labels"])["labels"]) for _, path in group])
    return head_contingency(labels, label, sizes, classes)


# -- parts of classes ----------------------------------------------------------------------------------------------


def _parts(
    settings: Settings, base: Store, refinement: Refinement, resources: Resources, progress: Progress
) -> dict[int, tuple[np.ndarray, Parts]]:
    """image_ids, ascending, and parts of the images of each class of the base that is split."""
    if not refinement.split:
        return {}
    on_cpu = resources.device == "cpu"  # then each has all threads of a node
    task = _split.options(num_cpus=resources.cores if on_cpu else 1, num_gpus=resources.gpu_share)
    progress.begin(len(refinement.split), unit="classes to split")
    found: dict[int, tuple[np.ndarray, Parts]] = {}
    tasks = (
        task.remote(settings, base.root, refinement, label, resources.device, resources.cores)
        for label in refinement.split
    )
    for label, ids, parts in completed(tasks, lambda: len(refinement.split)):
        found[label] = ids, parts
        counts = " and ".join(f"{count:,}" for count in np.bincount(parts.part))
        progress.log(f"class {label}: {len(ids):,} images in parts of {counts}")
        progress.update(len(found))
    return found


@ray.remote(max_retries=2)
def _split(
    settings: Settings, root: str, refinement: Refinement, label: int, device: str, threads: int
) -> tuple[int, np.ndarray, Parts]:
    """The class, image_ids of its images and their parts."""
    torch.set_num_threads(threads)
    store, parts = Store(root), len(refinement.split[label])
    ids, labels = (read_column(store, CONSENSUS, name) for name in ("image_id", "label"))
    chosen = np.flatnonzero(given(ids, labels, dict(refinement.moved)) == label)
    if len(chosen) < 2 * parts:
        raise RunError(f"class {label} has {len(chosen)} images once others are moved out of it; leave its split out")
    found = split(
        torch.from_numpy(_learned(store).taken(chosen)).to(device),
        read_column(store, HEAD_LABELS, "labels")[chosen],
        parts,
        seed=settings.seed,
        partitioners=PARTITIONERS_BESIDE_RAY,
    )
    return label, ids[chosen], found


def _learned(store: Store) -> FeatureRows:
    """The features that classes are learned from, of several feature spaces in the joined one."""
    space = spaces_of(store.require("embed").summary)[-1]
    if not space:
        return FeatureRows.training(store)
    return FeatureRows.of_space(store, space, store.require("neighbors").summary["by_space"])


# -- labels --------------------------------------------------------------------------------------------------------


def given(ids: np.ndarray, label: np.ndarray, moved: dict[int, int]) -> np.ndarray:
    """`label` int[n] of images `ids` int64[n], with that of `moved` for those that are in there."""
    if not moved:
        return label
    images = np.array(sorted(moved), np.int64)
    place = np.minimum(np.searchsorted(images, ids), len(images) - 1)
    there = images[place] == ids
    to = np.array([moved[image] for image in images.tolist()], label.dtype)
    return np.where(there, to[place], label)


@ray.remote(num_cpus=0.5)
def _relabel(
    base: str,
    version: str,
    group: Sequence[tuple[int, tuple[str, str]]],
    shared: tuple[Refinement, list[np.ndarray] | None],
    parts: dict[int, tuple[np.ndarray, Parts]],
) -> tuple[list[FileInfo], np.ndarray, float]:
    """The files of some shards, the images of each class in them, and the sum of their agreements."""
    (refinement, mapping), source, target = shared, Store(base).storage, Store(version).storage
    files, sizes, agreed = [], np.zeros(refinement.classes, np.int64), 0.0
    for number, (path, head_path) in group:
        table = source.read_table(path, list(CONSENSUS.columns)).combine_chunks()
        heads = None if mapping is None else matrix(source.read_table(head_path, ["labels"])["labels"])
        ids, label, agreement = (table[name].to_numpy() for name in ("image_id", "label", "agreement"))
        label, agreement = relabelled(ids, label, agreement, refinement, parts, mapping, heads)
        table = table.set_column(table.column_names.index("label"), "label", pa.array(label))
        table = table.set_column(table.column_names.index("agreement"), "agreement", pa.array(agreement))
        files.append(CONSENSUS.write(target, table, number))
        sizes += np.bincount(label, minlength=refinement.classes)
        agreed += float(agreement.sum(dtype=np.float64))
    return files, sizes, agreed


def relabelled(
    ids: np.ndarray,
    label: np.ndarray,
    agreement: np.ndarray,
    refinement: Refinement,
    parts: dict[int, tuple[np.ndarray, Parts]],
    mapping: list[np.ndarray] | None,
    heads: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """New label int32[n] and agreement float32[n] of images `ids` int64[n] with those of the base.

    `heads` int[n, H] are their labels under all heads and `mapping` the class of each cluster, for what is merged. The
    agreement with a part is that of the class times that of the training; with a label that was given it is 1.
    """
    first = np.array([of_class[0] for of_class in refinement.parts], np.int32)
    moved = given(ids, label, dict(refinement.moved))
    new, share = first[moved], agreement.astype(np.float32)
    if mapping is not None and heads is not None:
        joined = np.bincount(first[[len(p) == 1 for p in refinement.parts]], minlength=refinement.classes) > 1
        of_heads = [np.where(one < 0, -1, first[np.maximum(one, 0)]) for one in mapping]
        counted = (agreeing(heads, first[label], of_heads) / heads.shape[1]).astype(np.float32)
        share = np.where(joined[first[label]], counted, share)
    for old, (images, found) in parts.items():
        rows = np.flatnonzero(moved == old)
        place = np.searchsorted(images, ids[rows])
        new[rows] = np.array(refinement.split[old], np.int32)[found.part[place]]
        share[rows] *= found.agreement[place]
    share[np.isin(ids, np.array(list(refinement.fixed), np.int64))] = 1.0
    return new, share


# -- what changed --------------------------------------------------------------------------------------------------


def write_changes(base: Store, version: Store) -> None:
    """Write CHANGES_FILE: images by their class in the predictions of the base and of the version, largest first."""
    stores = (base, version)
    files = [[info.path for info in PREDICTIONS.files(one.require("predict").files)] for one in stores]
    counted: Counter[tuple[int, int]] = Counter()
    for flows in completed_groups(
        lambda group: _flows.remote(base.root, version.root, group), list(zip(*files, strict=True)), cpus=0.25
    ):
        counted.update(flows)
    rows = [[*pair, images] for pair, images in sorted(counted.items(), key=lambda one: (-one[1], one[0]))]
    version.storage.write_bytes(CHANGES_FILE, sealed_json({"flows": rows}))


@ray.remote(num_cpus=0.25)
def _flows(base: str, version: str, group: Sequence[tuple[str, str]]) -> dict[tuple[int, int], int]:
    """Images by both labels, in some shards of the same images."""
    counted: Counter[tuple[int, int]] = Counter()
    for pair in group:
        tables = (
            Store(root).storage.read_table(path, ["label"]) for root, path in zip((base, version), pair, strict=True)
        )
        labels = np.stack([table["label"].to_numpy() for table in tables])
        pairs, counts = np.unique(labels, axis=1, return_counts=True)
        counted.update({(int(one), int(other)): int(images) for one, other, images in zip(*pairs, counts, strict=True)})
    return dict(counted)
