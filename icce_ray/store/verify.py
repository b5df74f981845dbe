"""`icce verify`: what a run or a prediction holds, checked on the files against what `artifacts` declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from icce_ray.documents import DocumentError
from icce_ray.io.locations import StorageError
from icce_ray.store.artifacts import (
    DECLARED,
    FEATURES,
    METRICS_FILE,
    PREDICTION_FILE,
    PREDICTION_REJECTS,
    PREDICTIONS,
    REJECTS,
    RUN_FILE,
    STAGES,
    Table,
    folders_of,
)
from icce_ray.store.contents import Contents
from icce_ray.store.invariants import wrong_images, wrong_neighbors, wrong_sample
from icce_ray.store.markers import Marker, RunError, fingerprint
from icce_ray.store.run import Store
from icce_ray.store.seals import opened_yaml


def violations(store: Store) -> Iterator[str]:
    """One line for each violation, naming the file: checksums, counts, ids, names, features, lists, labels, weights.

    For a run, or for what `icce predict` has written. What hangs on something broken is not looked at: fix the first
    lines first. Of the features one shard is held at a time, of the images their ids. Raises RunError if the directory
    is neither.

    Not looked at is what is no result and made again by its command: the report, metrics.jsonl and TensorBoard's files,
    sweeps, the lock.
    """
    prediction = store.holds_prediction()
    if not prediction and not store.storage.exists(RUN_FILE):
        store.run_file()  # raises
    try:
        settings = None if prediction else store.settings()
        classifier = store.prediction_file()["classifier"] if prediction else ""
        noted = {} if prediction else store.run_file().get("fingerprints")
    except RunError as error:
        yield f"run: {error}"
        return
    noted = noted if isinstance(noted, dict) else {}
    if noted and noted.keys() != STAGES.keys():
        yield (
            f"run: {RUN_FILE} is of a version of icce-ray with other stages "
            f"({', '.join(sorted(set(noted) ^ set(STAGES)))}), whose fingerprints mean something else here; verify it "
            "with the version that wrote it"
        )
        return
    stages = ("list", "predict") if prediction else tuple(STAGES)
    expected = {stage: fingerprint(settings, stage) if settings else classifier for stage in stages}
    markers: dict[str, Marker] = {}
    lines = [
        *_seal(store, PREDICTION_FILE if prediction else RUN_FILE),
        *(
            f"{RUN_FILE}: notes fingerprint {noted.get(stage)} for stage {stage}, its settings give {digest}"
            for stage, digest in expected.items()
            if settings and noted.get(stage) != digest
        ),
        *_markers(store, expected, markers),
    ]
    lines += _files(store, markers, prediction=prediction)
    lines += _metrics(store, markers) if settings else ()
    yield from lines
    if not lines and "list" in markers:
        yield from _contents(Contents(store, markers, settings))


def _contents(contents: Contents) -> Iterator[str]:
    """In the order of the stages; what rests on something that cannot be used is not looked at."""
    lines = list(contents.manifest.violations())
    yield from lines
    for stage in () if lines else contents.markers:
        if stage == "embed":
            yield from wrong_images(contents, FEATURES, REJECTS)
        elif stage == "predict" and contents.settings is None:
            yield from wrong_images(contents, PREDICTIONS, PREDICTION_REJECTS)
        elif stage == "sample":
            yield from wrong_sample(contents)
        elif stage == "neighbors":
            yield from wrong_neighbors(contents)
        elif stage != "list":
            for artifact in DECLARED:
                if artifact.stage == stage and artifact is not PREDICTION_REJECTS:
                    yield from contents.artifact(artifact)
        if {"embed": "accepted", "sample": "learned"}.get(stage, "") not in {"", *contents.ids}:
            return


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
    for stage, marker in markers.items():
        folders = folders_of(stage, prediction=prediction)
        own = [one for one in DECLARED if one.stage == stage and one.path.partition("/")[0] in folders]
        times = Counter(info.path for info in marker.files)
        for path, count in times.items():
            if count > 1:
                yield f"{stage}: its marker lists {path} {count} times"
            if not any(one.holds(path) if isinstance(one, Table) else path == one.path for one in own):
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
