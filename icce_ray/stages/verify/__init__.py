"""`icce verify`: the invariants of what a run or a prediction has written, checked on the files themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from icce_ray.settings import Settings
from icce_ray.stages.neighbors import known
from icce_ray.stages.verify.files import (
    check_files,
    check_markers,
    check_metrics,
    check_run_file,
    check_seal,
    other_stages,
)
from icce_ray.stages.verify.images import check_features, check_manifest, same_ids
from icce_ray.stages.verify.lists import check_lists
from icce_ray.stages.verify.predictions import check_predictions
from icce_ray.stages.verify.reading import Manifest
from icce_ray.stages.verify.results import (
    LABELLED,
    check_classifier,
    check_head_labels,
    check_heads,
    check_labels,
    check_scores,
)
from icce_ray.stages.verify.sample import check_sample
from icce_ray.store import Marker, RunError, Store, fingerprint
from icce_ray.store.artifacts import CONSENSUS, PREDICTION_FILE, PREDICTIONS, RUN_FILE, STAGES, folders_of

__all__ = ["LABELLED", "violations"]


def violations(store: Store) -> Iterator[str]:
    """One line for each violation, naming the file: checksums, counts, ids, names, features, lists, labels, weights.

    For a run, or for what `icce predict` has written. What hangs on something broken is not looked at: mend the first
    lines first. Of the features one shard is held at a time, of the images their ids. Raises RunError if the directory
    is neither.

    Not looked at is what is no result and made again by its command: the report, metrics.jsonl and TensorBoard's files,
    sweeps, the lock.
    """
    if store.holds_prediction():
        yield from _of_prediction(store)
        return
    try:
        settings = store.settings()
    except RunError as error:
        if not store.storage.exists(RUN_FILE):
            raise
        yield f"run: {error}"
        return
    yield from _of_run(store, settings)


def _of_run(store: Store, settings: Settings) -> Iterator[str]:
    stages = other_stages(store)
    if stages:
        yield (
            f"run: {RUN_FILE} is of a version of icce-ray with other stages ({', '.join(stages)}), whose fingerprints "
            "mean something else here; verify it with the version that wrote it"
        )
        return
    markers: dict[str, Marker] = {}
    expected = {stage: fingerprint(settings, stage) for stage in STAGES}
    first = [
        *check_run_file(store, settings),
        *check_markers(store, list(STAGES), expected, markers),
        *check_files(store, markers),
        *check_metrics(store, markers),
    ]
    yield from first
    if first or "list" not in markers:
        return
    manifest = Manifest(store, markers["list"])
    listed = list(check_manifest(manifest, markers["list"]))
    yield from listed
    if listed or "embed" not in markers:
        return
    ids: list[np.ndarray] = []
    yield from check_features(store, markers["embed"], manifest, ids)
    if ids:
        yield from _results(store, known(settings, store), markers, manifest, ids[0])


def _results(
    store: Store, settings: Settings, markers: dict[str, Marker], manifest: Manifest, ids: np.ndarray
) -> Iterator[str]:
    """Every complete stage after `embed`: most are of the sample, the predictions of all images."""
    if "sample" not in markers:
        return
    learned: list[np.ndarray] = []
    yield from check_sample(store, markers["sample"], settings, ids, learned)
    if not learned:
        return
    of = "sample" if markers["sample"].files else "features"
    if "neighbors" in markers:
        yield from check_lists(store, markers["neighbors"], learned[0], settings.neighbors.mode, of)
    if "heads" in markers:
        yield from check_heads(store, markers["embed"], settings)
        yield from check_head_labels(store, markers["heads"], learned[0], settings, of)
    for artifact in (CONSENSUS, PREDICTIONS):
        stage = artifact.stage
        if stage in markers:
            seen = [np.empty(0, np.int64)]
            yield from check_labels(store, artifact, markers[stage], manifest, settings.clusters, seen)
            expected = (ids, "features") if stage == "predict" else (learned[0], of)
            yield from same_ids(artifact.path, np.concatenate(seen), *expected)
    if "consensus" in markers:
        yield from check_scores(store, markers["consensus"])
    if "classifier" in markers:
        yield from check_classifier(store, markers["embed"], settings.clusters)


def _of_prediction(store: Store) -> Iterator[str]:
    try:
        purpose = store.prediction_file()
    except RunError as error:
        yield f"prediction: {error}"
        return
    markers: dict[str, Marker] = {}
    stages = ["list", "predict"]
    artifacts = {stage: folders_of(stage, prediction=True) for stage in stages}
    first = [
        *check_seal(store, PREDICTION_FILE),
        *check_markers(store, stages, dict.fromkeys(stages, purpose["classifier"]), markers),
        *check_files(store, markers, artifacts),
    ]
    yield from first
    if first or "list" not in markers:
        return
    manifest = Manifest(store, markers["list"])
    listed = list(check_manifest(manifest, markers["list"]))
    yield from listed
    if not listed and "predict" in markers:
        yield from check_predictions(store, markers["predict"], manifest)
