"""`icce verify`: what a run or a prediction holds, checked on the files against what `artifacts` declares.

What one declaration says is checked by `contents`; what must hold between markers, files and artifacts is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from icce_ray.core.sampling import uniform_rows
from icce_ray.documents import DocumentError, opened_yaml
from icce_ray.io.locations import StorageError
from icce_ray.settings import Settings
from icce_ray.store.artifacts import (
    FEATURES,
    MANIFEST,
    METRICS_FILE,
    PREDICTION_FILE,
    PREDICTION_REJECTS,
    PREDICTIONS,
    REFINED,
    REJECTS,
    RUN_FILE,
    SAMPLE,
    STAGES,
    VERSIONS,
    Table,
    declared,
    folders_of,
)
from icce_ray.store.contents import Contents
from icce_ray.store.markers import Marker, RunError
from icce_ray.store.run import Store
from icce_ray.store.updates import update_fingerprints, update_folder, updates
from icce_ray.store.verify_neighbors import neighbor_violations
from icce_ray.store.versions import check_version, expected_fingerprints, versions
from icce_ray.store.views import spaces_of

#: Stages that 0.1.0 did not have, so that its run files note nothing of them.
SINCE = {"inspect"}


def violations(store: Store, known: dict[str, np.ndarray] | None = None) -> Iterator[str]:
    """One line for each violation, naming the file: checksums, counts, ids, names, features, lists, labels, weights.

    For a run with its updates and versions, for one version, or for what `icce predict` has written. What hangs on
    something broken is not looked at: fix the first lines first. Of the features one shard is held at a time, of the
    images their ids. Raises RunError if the directory is neither.

    `known` are the ids of images of a version, where its run was looked at before.

    Not looked at is what is no result and made again by its command: the report, metrics.jsonl and TensorBoard's files,
    sweeps, the lock.
    """
    prediction = store.holds_prediction()
    if not prediction and not store.storage.exists(RUN_FILE):
        store.run_file()  # raises
    try:
        settings = None if prediction else store.settings()
        classifier = store.prediction_file()["classifier"] if prediction else ""
        noted = {} if prediction else store.run_file()["fingerprints"]
        check_version(store)
    except RunError as error:
        yield f"run: {error}"
        return
    if noted and noted.keys() | SINCE != STAGES.keys():
        yield (
            f"run: {RUN_FILE} is of a version of icce-ray with other stages "
            f"({', '.join(sorted(set(noted) ^ set(STAGES)))}), whose fingerprints mean something else here; verify it "
            "with the version that wrote it"
        )
        return
    expected: dict[str, str] = {"list": classifier, "predict": classifier}
    if settings:
        expected = expected_fingerprints(store, settings)
    markers: dict[str, Marker] = {}
    lines = [
        *_seal(store, PREDICTION_FILE if prediction else RUN_FILE),
        *(
            f"{RUN_FILE}: notes fingerprint {noted.get(stage)} for stage {stage}, its settings give {digest}"
            for stage, digest in expected.items()
            if settings and noted.get(stage) != digest and (stage in noted or stage not in SINCE)
        ),
        *_markers(store, expected, markers),
    ]
    lines += _files(store, markers, prediction=prediction)
    lines += _metrics(store, _own(store, markers)) if settings else ()
    yield from lines
    if lines or "list" not in markers:
        return
    if store.origin:  # neighbours and heads are of its run's classes
        markers = {stage: one for stage, one in markers.items() if stage not in ("neighbors", "heads")}
    contents = Contents(store, markers, settings)
    if known is not None:
        contents.ids |= known
        contents.markers = _own(store, markers)
    yield from _contents(contents)
    if settings and "predict" in markers:
        yield from _updates(store, store.resolved(settings))
    if settings and not store.origin:
        for number, one in versions(store).items():
            yield from (f"{VERSIONS}/{number}: {line}" for line in violations(one, contents.ids))


def _own(store: Store, markers: dict[str, Marker]) -> dict[str, Marker]:
    """The markers of what a store has written itself; a version reads the rest from its run."""
    return {stage: one for stage, one in markers.items() if stage in REFINED} if store.origin else markers


def _updates(run: Store, settings: Settings) -> Iterator[str]:
    """What is wrong with the updates of a complete run, by their folders."""
    for number, one in enumerate(updates(run), 1):
        markers: dict[str, Marker] = {}
        lines = [*_seal(one, PREDICTION_FILE), *_markers(one, update_fingerprints(run), markers)]
        lines += _files(one, markers, prediction=False)
        if not lines:
            lines += _contents(Contents(one, markers, settings))
        yield from (f"{update_folder(number)}: {line}" for line in lines)


# -- markers and files ---------------------------------------------------------------------------------------------


def _seal(store: Store, path: str) -> Iterator[str]:
    """A YAML file that holds its own checksum, which files of earlier versions do not, was not changed since."""
    try:
        opened_yaml(store.storage.read_bytes(path), strict=True)
    except DocumentError as error:
        yield f"{path}: {error}"


def _markers(store: Store, expected: dict[str, str], markers: dict[str, Marker]) -> Iterator[str]:
    """Fill `markers` with those of complete stages; each must have its fingerprint and follow complete stages."""
    missing = []
    for stage, digest in expected.items():
        try:
            marker = store.marker(stage)
        except RunError as error:
            marker = None
            yield f"{stage}: {error}"
        if marker is None:
            missing.append(stage)
            continue
        markers[stage] = marker
        if marker.fingerprint != digest:
            yield f"{stage}: its marker has fingerprint {marker.fingerprint}, the settings give {digest}"
        lacking = [name for name in STAGES[stage].figures if name not in marker.summary]
        if lacking:
            yield f"{stage}: its marker says nothing of {', '.join(lacking)}"
        if missing:
            yield f"{stage}: complete, but {', '.join(missing)} before it is not"


def _files(store: Store, markers: dict[str, Marker], *, prediction: bool) -> Iterator[str]:
    """Every file of a marker is a declared one and there with its bytes; no Parquet file lies beside them.

    What a killed attempt leaves beside them is read by nobody: unfinished writes (temporary names, which a listing
    leaves out) and checkpoints.
    """
    every = declared(spaces_of(markers["embed"].summary if "embed" in markers else {}))
    for stage, marker in _own(store, markers).items():
        folders = folders_of(stage, prediction=prediction)
        artifacts = [one for one in every if one.stage == stage and one.path.partition("/")[0] in folders]
        times = Counter(info.path for info in marker.files)
        for path, count in times.items():
            if count > 1:
                yield f"{stage}: its marker lists {path} {count} times"
            if not any(one.holds(path) for one in artifacts):
                yield f"{stage}: its marker lists {path}, which is none of its files"
        for info in {info.path: info for info in marker.files}.values():
            try:
                now = store.storage.describe(info.path)
            except FileNotFoundError:
                yield f"{stage}: {info.path} is missing"
                continue
            except (StorageError, ValueError) as error:
                yield f"{stage}: {error}"
                continue
            if now != info:
                texts = (
                    f"{'' if one.rows is None else f'{one.rows} rows, '}{one.bytes} bytes, sha256 {one.sha256[:12]}"
                    for one in (now, info)
                )
                yield f"{stage}: {info.path} has {next(texts)}; written were {next(texts)}"
        for folder in folders:
            for path, _ in store.storage.list(folder):
                if path.endswith(".parquet") and path not in times:
                    yield f"{stage}: {path} is in no marker"


def _metrics(store: Store, markers: dict[str, Marker]) -> Iterator[str]:
    """Figures of a stage in metrics.json are those of its marker; a killed run may have noted none of the last one."""
    try:
        metrics = store.metrics()
    except RunError as error:
        yield f"run: {error}"
        return
    for stage, marker in markers.items():
        if stage not in metrics:
            continue
        noted = {name: value for name, value in metrics[stage].items() if name != "seconds"}
        differs = sorted(name for name in noted | marker.summary if noted.get(name) != marker.summary.get(name))
        if differs:
            yield f"run: {METRICS_FILE} has other figures of {stage} than its marker: {', '.join(differs)}"


# -- between artifacts ---------------------------------------------------------------------------------------------


def _contents(contents: Contents) -> Iterator[str]:
    """In the order of the stages; nothing is said of what rests on images that are wrong."""
    for stage in contents.markers:
        if stage == "list":
            lines = list(contents.artifact(MANIFEST))
        elif stage == "embed":
            lines = list(_images(contents, FEATURES, REJECTS))
        elif stage == "sample":
            lines = list(_sample(contents))
        elif stage == "neighbors":
            lines = list(
                dict.fromkeys(line for space in contents.spaces for line in neighbor_violations(contents, space))
            )
        elif stage == "predict" and contents.settings is None:
            lines = list(_images(contents, PREDICTIONS, PREDICTION_REJECTS))
        else:
            every = declared(contents.spaces)
            artifacts = [one for one in every if one.stage == stage and one != PREDICTION_REJECTS]
            lines = [line for artifact in artifacts for line in contents.artifact(artifact)]
        yield from lines
        if lines and stage in ("list", "embed", "sample"):
            return


def _images(contents: Contents, accepted: Table, rejected: Table) -> Iterator[str]:
    """Every listed image is there once, as accepted or as rejected; then the accepted ones are known."""
    stage, inputs = accepted.stage, len(contents.ids["listed"])
    (lines, good), (others, bad) = contents.table(accepted), contents.table(rejected)
    yield from lines + others
    if good is None or bad is None:
        return
    every = np.concatenate([good, bad])
    listed = np.unique(every[(every >= 0) & (every < inputs)])
    missing, foreign = inputs - len(listed), int(((every < 0) | (every >= inputs)).sum())
    twice = len(every) - len(listed) - foreign
    if missing or foreign or twice:
        yield (
            f"{stage}: {inputs} inputs, but {len(good)} ok and {len(bad)} rejected: {missing} missing, {twice} twice, "
            f"{foreign} that were never listed"
        )
    elif (np.diff(good) < 0).any():
        yield f"{stage}: image_ids do not ascend over the shards in the order of their numbers"
    contents.ids["accepted"] = good
    yield from contents.figure(stage, "ok", len(good))
    yield from contents.figure(stage, "rejected", len(bad))


def _sample(contents: Contents) -> Iterator[str]:
    """The images that the seed draws, with their own features; they are what later stages learn from."""
    assert contents.settings is not None, "a prediction has no sample"
    ids, heads = contents.ids["accepted"], contents.settings.heads
    size, files = min(heads.max_images, len(ids)), SAMPLE.files(contents.markers["sample"].files)
    for name, value in {"images": size, "of": len(ids), "seed": heads.sample_seed}.items():
        yield from contents.figure("sample", name, value)
    contents.ids["learned"] = ids
    if size < len(ids):
        contents.ids["learned"] = ids[uniform_rows(len(ids), size, heads.sample_seed)]
        yield from contents.table(SAMPLE)[0]
    elif files:
        yield f"sample: has {len(files)} files, but heads.max_images allows all {len(ids)} images"
