"""`icce verify`: what a run or a prediction holds, checked on the files against what `artifacts` declares.

What one declaration says is checked by `contents`; what must hold between markers, files and artifacts is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from icce_ray.core.sampling import uniform_rows
from icce_ray.documents import DocumentError, opened_yaml
from icce_ray.io.locations import StorageError
from icce_ray.settings import Settings
from icce_ray.store.artifacts import (
    FEATURES,
    MANIFEST,
    METRICS_FILE,
    NEIGHBORS,
    PREDICTION_FILE,
    PREDICTION_REJECTS,
    PREDICTIONS,
    REJECTS,
    RUN_FILE,
    SAMPLE,
    STAGES,
    Table,
    declared,
    folders_of,
)
from icce_ray.store.contents import Contents, Rows, filled, numbers
from icce_ray.store.markers import Marker, RunError, fingerprint
from icce_ray.store.run import Store
from icce_ray.store.updates import update_fingerprints, update_folder, updates
from icce_ray.store.views import View, figures_of, seen, spaces_of, views_of

#: Pairs whose similarity is computed again, spread over all shards; and how far it may be off: a search in half
#: precision has been seen to be off by 5e-4.
PAIRS, TOLERANCE = 1024, 2e-3


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
        noted = {} if prediction else store.run_file()["fingerprints"]
    except RunError as error:
        yield f"run: {error}"
        return
    if noted.keys() != set(list(STAGES)[: len(noted)]):  # a version may know fewer, the first ones
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
            if settings and noted.get(stage, digest) != digest
        ),
        *_markers(store, expected, markers),
    ]
    lines += _files(store, markers, prediction=prediction)
    lines += _metrics(store, markers) if settings else ()
    yield from lines
    if not lines and "list" in markers:
        yield from _contents(Contents(store, markers, settings))
    if settings and not lines and "predict" in markers:
        yield from _updates(store, store.resolved(settings))


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
    for stage, marker in markers.items():
        folders = folders_of(stage, prediction=prediction)
        own = [one for one in every if one.stage == stage and one.path.partition("/")[0] in folders]
        times = Counter(info.path for info in marker.files)
        for path, count in times.items():
            if count > 1:
                yield f"{stage}: its marker lists {path} {count} times"
            if not any(one.holds(path) for one in own):
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
            lines = list(dict.fromkeys(line for space in contents.spaces for line in _neighbors(contents, space)))
        elif stage == "predict" and contents.settings is None:
            lines = list(_images(contents, PREDICTIONS, PREDICTION_REJECTS))
        else:
            every = declared(contents.spaces)
            own = [one for one in every if one.stage == stage and one != PREDICTION_REJECTS]
            lines = [line for artifact in own for line in contents.artifact(artifact)]
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


def _neighbors(contents: Contents, space: str) -> Iterator[str]:
    """Each list on its own (paper 3.1), then similarities of some pairs, the same ones every time."""
    lists = NEIGHBORS.of(space)
    files = lists.files(contents.markers["neighbors"].files)
    share, random = -(-PAIRS // max(1, len(files))), np.random.default_rng(0)
    pairs: dict[str, np.ndarray] = {}

    def check(path: str, shard: pa.Table) -> Iterator[str]:
        own, (offsets, neighbor), (ends, similarity) = _lists(shard)
        if not np.array_equal(offsets, ends):
            yield "has lists of neighbours and of similarities that differ in length"
            return
        wrong = list(_wrong_lists(contents, space, own, offsets, neighbor, similarity))
        yield from wrong
        if not wrong and len(own):
            row = np.repeat(own, np.diff(offsets))
            chosen = random.choice(len(row), min(share, len(row)), replace=False)
            pairs[path] = np.stack([row[chosen], neighbor[chosen], similarity[chosen].astype(np.float64)])

    beside = [one for one in declared([space]) if one.stage == "neighbors" and one != lists]
    lines = [line for artifact in beside for line in contents.artifact(artifact)] + contents.table(lists, check)[0]
    yield from lines
    if not lines and pairs:
        yield from _wrong_similarities(contents, space, pairs)


def _wrong_lists(
    contents: Contents,
    space: str,
    own: np.ndarray,
    offsets: np.ndarray,
    neighbor: np.ndarray,
    similarity: np.ndarray,
) -> Iterator[str]:
    """What is wrong with the lists of one shard."""
    assert contents.settings is not None, "a prediction has no neighbours"
    ids, limits = contents.ids["learned"], figures_of(contents.markers["neighbors"].summary, space)
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(own)), counts)
    rank = np.arange(len(row)) - offsets[row]
    place = np.minimum(np.searchsorted(ids, neighbor), len(ids) - 1)
    if (ids[place] != neighbor).any():
        yield "names images that heads do not learn from"
    elif len(np.unique(row * len(ids) + place)) != len(row):
        yield "has a neighbour twice in one list"
    if (neighbor == own[row]).any():
        yield "has an image among its own neighbours"
    if (~(np.diff(similarity) <= 0) & (np.diff(row) == 0)).any() or not np.isfinite(similarity).all():
        yield "has lists that are not descending"
    if contents.settings.neighbors.mode != "ground_truth":
        fewest = min(limits["k_min"], len(ids) - 1)
        if (counts < fewest).any() or (counts > limits["k_max"]).any():
            yield f"has lists outside k_min {fewest} to k_max {limits['k_max']}"
        if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
            yield f"has neighbours beyond k_min below the threshold {limits['threshold']}"


def _views(contents: Contents, space: str) -> tuple[View, ...]:
    """What neighbours and heads see of the features in a space."""
    figures = contents.markers["neighbors"].summary.get("by_space", {})
    figures = figures if space else {"": {"components": contents.dimensions["components"]}}
    return views_of(contents.markers["embed"].summary, space, figures)


def _wrong_similarities(contents: Contents, space: str, pairs: dict[str, np.ndarray]) -> Iterator[str]:
    """Shards of which the sampled similarities are not the cosine of the two features."""
    features = Rows(contents, SAMPLE if contents.markers["sample"].files else FEATURES, ["features"])
    wanted = np.unique(np.concatenate([sample[:2].ravel() for sample in pairs.values()]).astype(np.int64))
    rows = features.take(np.searchsorted(contents.ids["learned"], wanted))
    view = seen(contents.store.storage, _views(contents, space))
    unit = view(numbers(rows["features"])).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for path, sample in pairs.items():
        first, second = (np.searchsorted(wanted, side.astype(np.int64)) for side in sample[:2])
        cosine = (unit[first] * unit[second]).sum(axis=1)
        off = abs(cosine - sample[2])
        worst = int(off.argmax())
        if off[worst] > TOLERANCE:
            yield (
                f"neighbors: {path} has similarities that are not the cosine of the two features: of images "
                f"{int(sample[0, worst])} and {int(sample[1, worst])} it says {sample[2, worst]:.4f}, the features "
                f"give {cosine[worst]:.4f} ({int((off > TOLERANCE).sum())} of {len(off)} looked at)"
            )


def _lists(shard: pa.Table) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """image_ids; offsets from 0 and all values of the lists of neighbours, and of similarities."""
    columns = (shard[name].combine_chunks() for name in ("neighbor_ids", "similarities"))
    pairs = [(column.offsets.to_numpy() - column.offsets[0].as_py(), filled(column.flatten())) for column in columns]
    return shard["image_id"].to_numpy(), pairs[0], pairs[1]
