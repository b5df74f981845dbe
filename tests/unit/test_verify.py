"""`icce verify`: a whole run gives no line; each way to break it gives its own, with the file and what is wrong."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from icce_ray.io.storage import Storage
from icce_ray.settings import load
from icce_ray.stages.features import list_column
from icce_ray.store import RunError, Store, artifacts, fingerprint, invariants, verify
from icce_ray.store.artifacts import MARKER, METRICS_FILE, PREDICTION_FILE, RUN_FILE, STAGES, Column, Table, shard_path
from icce_ray.store.seals import opened_json, opened_yaml, sealed_json, sealed_yaml
from icce_ray.store.verify import violations
from tests.failures import fails

INPUTS, CLUSTERS, HEADS, HIDDEN, BOTTLENECK, EPOCHS, DIM = 6, 2, 2, 5, 4, 3, 3
OVERRIDES = ["neighbors.k_min=2", "neighbors.k_max=3", "neighbors.threshold=0.5", f"heads.heads={HEADS}"]
OVERRIDES += [f"heads.hidden={HIDDEN}", f"heads.bottleneck={BOTTLENECK}", f"heads.epochs={EPOCHS}"]
OVERRIDES += ["heads.warmup_epochs=1"]
MANIFEST, NEIGHBORS = shard_path("manifest", 0), shard_path("neighbors", 0)
OK_0, OK_1 = (shard_path("features/status=ok", index) for index in range(2))
REJECTS, LOSSES = shard_path("features/status=reject", 0), "heads/losses.parquet"
HEADS_FILE = "heads/heads.safetensors"
#: Directions of the images in degrees: the similarity of two is the cosine of their difference.
DEGREES = np.array([0, 20, 40, 55, 70, 100])


def named(ids):
    return {
        "image_id": pa.array(ids, pa.int64()),
        "uri": pa.array([f"file:///photos/{index}.png" for index in ids], pa.string()),
        "key": pa.array([f"{index}.png" for index in ids], pa.string()),
    }


def manifest(ids):
    none = [None] * len(ids)
    place = {"container": pa.array(none, pa.string()), "position": pa.array(none, pa.int64())}
    return pa.table(named(ids) | {"size": pa.array([100] * len(ids), pa.int64())} | place)


def vectors(ids):
    angles = np.radians(DEGREES[np.array(ids, int) % INPUTS])
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float16)


def features(ids, values=None):
    return pa.table(named(ids) | {"features": list_column(vectors(ids) if values is None else values)})


def rejects(ids, reasons=None):
    reasons = reasons or ["truncated"] * len(ids)
    return pa.table(named(ids) | {"reason": pa.array(reasons, pa.string()), "detail": pa.array(reasons, pa.string())})


def cosines(image, others):
    return np.cos(np.radians(DEGREES[others] - DEGREES[image])).tolist()


def neighbors(ids, neighbor_ids, similarities=None):
    similarities = similarities or [cosines(*pair) for pair in zip(ids, neighbor_ids, strict=True)]
    return pa.table(
        {
            "image_id": pa.array(ids, pa.int64()),
            "key": named(ids)["key"],
            "neighbor_ids": pa.array(neighbor_ids, pa.large_list(pa.int64())),
            "similarities": pa.array(similarities, pa.large_list(pa.float32())),
        }
    )


def head_labels(ids, values):
    names = named(ids)
    del names["uri"]
    return pa.table(names | {"labels": list_column(np.array(values, np.int32))})


def labels(ids, values, share=0.5, name="confidence"):
    shares = [share] * len(ids) if isinstance(share, float) else share
    return pa.table(named(ids) | {"label": pa.array(values, pa.int32()), name: pa.array(shares, pa.float32())})


def agreed(ids, values, share=0.5):
    return labels(ids, values, share, "agreement")


#: Six images, of which the fourth is rejected; two shards of features.
TABLES = {
    "list": {MANIFEST: manifest(range(4)), shard_path("manifest", 1): manifest([4, 5])},
    "embed": {OK_0: features([0, 1, 2]), OK_1: features([4, 5]), REJECTS: rejects([3])},
    "sample": {},
    "neighbors": {
        NEIGHBORS: neighbors([0, 1, 2], [[1, 2], [0, 2, 4], [1, 4, 0]]),
        shard_path("neighbors", 1): neighbors([4, 5], [[5, 2, 1], [4, 2]]),
    },
    "heads": {
        shard_path("head_labels", 0): head_labels([0, 1, 2], [[0, 1], [0, 0], [1, 1]]),
        shard_path("head_labels", 1): head_labels([4, 5], [[0, 1], [1, 0]]),
        LOSSES: pa.table(
            {
                "epoch": np.repeat(np.arange(EPOCHS), HEADS),
                "head": np.tile(np.arange(HEADS), EPOCHS),
                "temi": np.linspace(1, 0, EPOCHS * HEADS, dtype=np.float32),
                "cross_entropy": np.linspace(1, 0, EPOCHS * HEADS, dtype=np.float32),
            }
        ),
    },
    "consensus": {
        shard_path("consensus", 0): agreed([0, 1, 2], [0, 0, 1]),
        shard_path("consensus", 1): agreed([4, 5], [1, 0]),
    },
    "classifier": {
        "classifier/grid.parquet": pa.table(
            {"input": ["all"], "learning_rate": [0.1], "accuracy": [1.0], "loss": [0.0]}
        )
    },
    "predict": {
        shard_path("predictions", 0): labels([0, 1, 2], [0, 0, 1]),
        shard_path("predictions", 1): labels([4, 5], [1, 1]),
    },
}
COUNTS = {"images": INPUTS, "ok": 5, "rejected": 1, "rejected_by_reason": {"truncated": 1}}
SCORES = {"method": "hbgf", "scores": {"hbgf": 0.5}, "cluster_sizes": [3, 2]}
SUMMARIES = {
    "list": {"images": INPUTS},
    "embed": COUNTS | {"dim": DIM, "block_dim": 0},
    "sample": {"images": 5, "of": 5, "seed": 0},
    "neighbors": {"threshold": 0.5, "k_min": 2, "k_max": 3},
    "consensus": SCORES,
    "predict": {"class_sizes": [2, 3]},
}
TENSORS = {
    "heads": (
        HEADS_FILE,
        {
            "hidden.weight": torch.zeros(HEADS, HIDDEN, DIM),
            "hidden.bias": torch.zeros(HEADS, HIDDEN),
            "bottleneck.weight": torch.zeros(HEADS, BOTTLENECK, HIDDEN),
            "bottleneck.bias": torch.zeros(HEADS, BOTTLENECK),
            "prototypes": torch.zeros(HEADS, CLUSTERS, BOTTLENECK),
            "input.mean": torch.zeros(DIM),
            "input.std": torch.ones(DIM),
        },
    ),
    "classifier": (
        "classifier/classifier.safetensors",
        {"weight": torch.zeros(CLUSTERS, DIM), "bias": torch.zeros(CLUSTERS)},
    ),
}
DOCUMENTS = {
    "consensus": ("consensus/scores.json", SCORES),
    "classifier": ("classifier/classifier.json", {"columns": [[0, DIM]], "classes": CLUSTERS}),
}


def write_json(store, path, content):
    store.storage.write_bytes(path, json.dumps(content).encode())
    return store.storage.describe(path)


def made(root, tables, summaries, overrides):
    """A run of all stages, from its tables and figures."""
    store = Store(str(root))
    settings = load({"source": "photos", "clusters": CLUSTERS, "out": store.root}, overrides=overrides)
    store.claim(settings)
    documents = DOCUMENTS | {"consensus": (DOCUMENTS["consensus"][0], summaries["consensus"])}
    for stage in STAGES:
        files = [store.storage.write_table(name, table) for name, table in tables[stage].items()]
        files += [store.storage.write_tensors(*TENSORS[stage])] if stage in TENSORS else []
        files += [write_json(store, *documents[stage])] if stage in documents else []
        summary = summaries.get(stage, {})
        store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=0)
        if stage != "list":
            store.record(stage, summary | {"seconds": 0.5})
    return store.root


SAMPLE = shard_path("sample", 0)
#: Of the accepted images 0, 1, 2, 4, 5 these are the ones that seed 27 draws.
DRAWN = [1, 2, 4]
OF_SAMPLE = TABLES | {
    "sample": {SAMPLE: features([1, 2]), shard_path("sample", 1): features([4])},
    "neighbors": {NEIGHBORS: neighbors(DRAWN, [[2, 4], [1, 4], [2, 1]])},
    "heads": {
        shard_path("head_labels", 0): head_labels(DRAWN, [[0, 1], [0, 0], [1, 1]]),
        LOSSES: TABLES["heads"][LOSSES],
    },
    "consensus": {shard_path("consensus", 0): agreed(DRAWN, [0, 0, 1])},
}
SAMPLE_SUMMARIES = SUMMARIES | {
    "sample": {"images": 3, "of": 5, "seed": 27},
    "consensus": SCORES | {"cluster_sizes": [2, 1]},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("whole") / "run", TABLES, SUMMARIES, OVERRIDES)


@pytest.fixture
def store(whole, tmp_path):
    return Store(str(shutil.copytree(whole, tmp_path / "run")))


@pytest.fixture(scope="module")
def whole_of_sample(tmp_path_factory):
    overrides = [*OVERRIDES, "heads.max_images=3", "heads.sample_seed=27"]
    return made(tmp_path_factory.mktemp("sampled") / "run", OF_SAMPLE, SAMPLE_SUMMARIES, overrides)


@pytest.fixture
def sampled(whole_of_sample, tmp_path):
    return Store(str(shutil.copytree(whole_of_sample, tmp_path / "run")))


@pytest.fixture
def predicted(tmp_path):
    """What `icce predict` writes for a source of the six images."""
    store = Store(str(tmp_path / "predicted"))
    store.claim_prediction({"run": "run", "classifier": "c" * 16, "source": "photos"})
    files = [store.storage.write_table(name, table) for name, table in TABLES["list"].items()]
    store.commit("list", files, fingerprint="c" * 16, summary={"images": INPUTS}, seconds=0)
    files = [store.storage.write_table(name, table) for name, table in TABLES["predict"].items()]
    files.append(store.storage.write_table(shard_path("rejects", 0), rejects([3])))
    summary = COUNTS | {"class_sizes": [2, 3]}
    store.commit("predict", files, fingerprint="c" * 16, summary=summary, seconds=0)
    return store


def lines(store):
    return list(violations(store))


def finds(store, *expected):
    """`verify` has a line for each of `expected` and no other: what it starts with, and facts that it holds."""
    found = lines(store)
    assert len(found) == len(expected), found
    for line, (start, *facts) in zip(found, expected, strict=True):
        assert line.startswith(f"{start}: "), (line, start)
        assert [fact for fact in facts if str(fact) not in line] == [], line
        assert "\n" not in line


def replaced(store, stage, path, content, **summary):
    """Write another content as if the stage had: the marker knows it, and other figures if there are any."""
    if isinstance(content, pa.Table):
        info = store.storage.write_table(path, content)
    elif path.endswith(".json"):
        info = write_json(store, path, content)
    else:
        info = store.storage.write_tensors(path, content)
    marker = store.require(stage)
    figures = marker.summary | summary
    files = [info, *(one for one in marker.files if one.path != path)]
    store.commit(stage, files, fingerprint=marker.fingerprint, summary=figures, seconds=0)
    if summary:
        store.record(stage, figures)


def without(table, name):
    return table.drop_columns(name)


def named_otherwise(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))


def test_a_whole_run_has_no_violations_and_nor_has_one_under_way(store):
    assert lines(store) == []
    for stage in reversed(STAGES):
        store.storage.delete(f"{STAGES[stage].folder}/{MARKER}")
        assert lines(store) == []


def test_a_whole_run_on_a_sample_has_no_violations_and_nor_has_one_under_way(sampled):
    assert lines(sampled) == []
    for stage in reversed(STAGES):
        sampled.storage.delete(f"{STAGES[stage].folder}/{MARKER}")
        assert lines(sampled) == []


def test_a_whole_prediction_has_no_violations_and_nor_has_one_under_way(predicted):
    assert lines(predicted) == []
    for artifact in ("predictions", "manifest"):
        predicted.storage.delete(f"{artifact}/{MARKER}")
        assert lines(predicted) == []


def test_what_is_no_run_is_an_error(tmp_path):
    with fails(RunError, tmp_path, RUN_FILE, "icce run"):
        lines(Store(str(tmp_path)))


def test_it_reads_and_never_writes(store, monkeypatch):
    before = {name: store.storage.read_bytes(name) for name, _ in store.storage.list()}
    monkeypatch.setattr(Storage, "write_bytes", lambda *args: pytest.fail("verify wrote a file"))
    assert lines(store) == []
    assert {name: store.storage.read_bytes(name) for name, _ in store.storage.list()} == before


# -- files and markers -----------------------------------------------------------------------------------------


def every_file(store):
    """(path, first word of its line) of each file that `verify` answers for."""
    markers = {f"{declared.folder}/{MARKER}": stage for stage, declared in STAGES.items()}
    owners = {info.path: stage for stage in STAGES for info in store.require(stage).files}
    return owners | markers | {RUN_FILE: RUN_FILE, METRICS_FILE: "run"}


def test_a_flipped_byte_of_any_file_is_named(store):
    draw = random.Random(7)
    for path, start in every_file(store).items():
        data = store.storage.read_bytes(path)
        place = draw.randrange(len(data))
        changed = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        store.storage.write_bytes(path, changed)
        found = lines(store)
        assert [line for line in found if line.startswith((f"{start}: ", "run: ")) and path in line], (path, found)
        store.storage.write_bytes(path, data)
    assert lines(store) == []


@pytest.mark.parametrize("path", [MANIFEST, OK_0, HEADS_FILE, "consensus/scores.json", "classifier/grid.parquet"])
def test_a_file_that_was_cut_or_is_missing(store, path):
    start = every_file(store)[path]
    data = store.storage.read_bytes(path)
    store.storage.write_bytes(path, data[: len(data) // 2])
    finds(store, (start, path))
    store.storage.delete(path)
    finds(store, (start, path, "missing"))


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("list", "manifest/part-000002.parquet"),
        ("embed", "features/status=reject/deep/part-000000.parquet"),
        ("heads", "head_labels/part-000002.parquet"),
        ("predict", "predictions/copy of part-000000.parquet"),
    ],
)
def test_a_foreign_file(store, stage, name):
    store.storage.write_table(name, labels([1], [0]))
    finds(store, (stage, name, "no marker"))


def test_leftovers_of_a_killed_attempt_are_no_shards(store):
    store.storage.write_bytes("heads/checkpoint.safetensors", b"state")
    store.storage.write_bytes("features/status=ok/.0123abcd.tmp", b"half a shard")
    assert lines(store) == []


def remarked(store, of, **change):
    """Another marker of a stage, with a checksum as its writer would have made."""
    path = f"{STAGES[of].folder}/{MARKER}"
    content = opened_json(store.storage.read_bytes(path))
    store.storage.write_bytes(path, sealed_json(content | change))


def files_of(store, stage):
    return [dataclasses.asdict(info) for info in store.require(stage).files]


def test_markers_that_were_exchanged(store):
    paths = [f"{STAGES[stage].folder}/{MARKER}" for stage in ("classifier", "predict")]
    data = [store.storage.read_bytes(path) for path in paths]
    for path, other in zip(paths, reversed(data), strict=True):
        store.storage.write_bytes(path, other)
    finds(store, ("classifier", paths[0], "stage predict"), ("predict", paths[1], "stage classifier"))


def test_markers_that_belong_to_something_else(store):
    (first, *others), foreign = files_of(store, "consensus"), files_of(store, "neighbors")[0]
    known = store.require("consensus").fingerprint
    path = first["path"]
    for change, expected in [
        ({"fingerprint": "0" * 16}, ["consensus", "0" * 16, known]),
        ({"files": [first | {"rows": 7}, *others]}, ["consensus", path, "3 rows", "7 rows"]),
        ({"files": [first, first, *others]}, ["consensus", path, "2 times"]),
        ({"files": [first, *others, foreign]}, ["consensus", foreign["path"], "none of its files"]),
    ]:
        before = store.storage.read_bytes(f"consensus/{MARKER}")
        remarked(store, "consensus", **change)
        found = lines(store)
        assert all(fact in found[0] for fact in expected), found
        assert {line.split(":")[0] for line in found} <= {"consensus", "run"}
        store.storage.write_bytes(f"consensus/{MARKER}", before)


@pytest.mark.parametrize("stage", ["classifier", "embed"])
def test_a_stage_before_that_is_not_complete(store, stage):
    store.storage.delete(f"{STAGES[stage].folder}/{MARKER}")
    later = list(STAGES)[list(STAGES).index(stage) + 1 :]
    finds(store, *((name, stage) for name in later))


def test_a_marker_without_figures_that_are_needed(store):
    remarked(store, "embed", summary={"images": 6, "ok": 5})
    finds(store, ("embed", "rejected, rejected_by_reason, dim"), ("run", METRICS_FILE, "embed", "dim"))


@pytest.mark.parametrize(
    "content", [b"settings: [", b"\xff\xfe", b"settings: 7", b"settings: {clusters: many}", b"a: &a [*a]"]
)
def test_a_damaged_run_file(store, content):
    store.storage.write_bytes(RUN_FILE, content)
    found = lines(store)
    assert found[0].startswith("run: ")
    assert RUN_FILE in found[0]


def test_other_settings_in_the_run_file(store):
    content = opened_yaml(store.storage.read_bytes(RUN_FILE))
    content["settings"]["seed"] += 1
    store.storage.write_bytes(RUN_FILE, sealed_yaml(content))
    later = ["heads", "consensus", "classifier", "predict"]
    own = [(RUN_FILE, store.require(stage).fingerprint, stage) for stage in later]
    finds(store, *own, *((stage, store.require(stage).fingerprint) for stage in later))


def test_a_run_of_a_version_without_samples(store):
    content = opened_yaml(store.storage.read_bytes(RUN_FILE))
    del content["fingerprints"]["sample"]
    store.storage.write_bytes(RUN_FILE, sealed_yaml(content))
    store.storage.delete(f"sample/{MARKER}")
    finds(store, ("run", RUN_FILE, "sample", "version that wrote it"))


def test_a_run_of_a_version_without_checksums_has_no_violations(store):
    for path in every_file(store):
        opened = {".json": opened_json, ".yaml": opened_yaml}.get(path[-5:])
        if path.endswith(MARKER) or path in (RUN_FILE, METRICS_FILE):
            store.storage.write_bytes(path, json.dumps(opened(store.storage.read_bytes(path))).encode())
    assert lines(store) == []


def test_figures_in_the_metrics_file(store):
    figures = store.metrics()
    for content in (b"{", b"[]", b"\xff", b'{"embed": 3}', b'{"evaluation": {"consensus": {}}}'):
        store.storage.write_bytes(METRICS_FILE, content)
        finds(store, ("run", METRICS_FILE, "delete it"))
    others = COUNTS | {"ok": 6, "dim": DIM, "block_dim": 0, "extra": 1}
    store.storage.write_bytes(METRICS_FILE, sealed_json(figures | {"embed": others}))
    finds(store, ("run", METRICS_FILE, "embed", "extra, ok"))
    del figures["predict"]  # a kill may keep the last ones from being noted
    store.storage.write_bytes(METRICS_FILE, sealed_json(figures | {"evaluation": {}}))
    assert lines(store) == []
    store.storage.delete(METRICS_FILE)
    assert lines(store) == []


# -- what the files hold ---------------------------------------------------------------------------------------

HEAD_1, CONSENSUS_0, CONSENSUS_1 = shard_path("head_labels", 1), shard_path("consensus", 0), shard_path("consensus", 1)
PREDICTIONS_0, PREDICTIONS_1 = shard_path("predictions", 0), shard_path("predictions", 1)
CLASSIFIER, DESCRIPTION = "classifier/classifier.safetensors", "classifier/classifier.json"
OF_FEATURES = "those of the features"
DESCRIBED, TEMI = DOCUMENTS["classifier"][1], TABLES["heads"][LOSSES]
WEIGHTS = {stage: tensors for stage, (_, tensors) in TENSORS.items()}


def with_a(value, stage):
    name = sorted(WEIGHTS[stage])[0]
    changed = WEIGHTS[stage][name].clone()
    changed.view(-1)[0] = value
    return WEIGHTS[stage] | {name: changed}


def no_direction(value):
    values = vectors([4, 5])
    values[1] = value
    return features([4, 5], values)


@pytest.mark.parametrize(
    ("stage", "path", "content", "expected"),
    [
        # the manifest: ids, counts, names
        *(("list", MANIFEST, manifest(ids), [("list", MANIFEST, "0 to 3")]) for ids in ([0, 1, 3, 2], [1, 2, 3, 4])),
        ("list", shard_path("manifest", 1), manifest([4]), [("list", "5 images", "6 in")]),
        (
            "list",
            MANIFEST,
            named_otherwise(manifest(range(4)), "uri", ["a", None, "c", "d"]),
            [("list", MANIFEST, "1 rows", "uri")],
        ),
        ("list", MANIFEST, without(manifest(range(4)), "key"), [("list", MANIFEST, "no column", "key")]),
        (
            "list",
            MANIFEST,
            named_otherwise(manifest(range(4)), "key", ["a", "b", "c", "d"]),
            [
                ("embed", OK_0, "3 images", 0),
                ("embed", REJECTS, "1 images", 3),
                ("neighbors", NEIGHBORS, "3 images", 0),
                ("heads", shard_path("head_labels", 0), "3 images", 0),
                ("consensus", CONSENSUS_0, "3 images", 0),
                ("predict", PREDICTIONS_0, "3 images", 0),
            ],
        ),
        (
            "embed",
            REJECTS,
            named_otherwise(rejects([3]), "uri", ["x"]),
            [("embed", REJECTS, "1 images under another name", 3)],
        ),
        (
            "predict",
            PREDICTIONS_0,
            named_otherwise(labels([0, 1, 2], [0, 0, 1]), "key", ["0.png", "x", "2.png"]),
            [("predict", PREDICTIONS_0, "1 images under another name", "first 1")],
        ),
        (
            "predict",
            PREDICTIONS_1,
            without(labels([4, 5], [1, 1]), "uri"),
            [("predict", PREDICTIONS_1, "no column", "uri")],
        ),
        # features: ids, directions, columns
        *(("embed", OK_1, features(ids), [("embed", "1 missing", "1 twice")]) for ids in ([4, 4], [4, 3], [4, 0])),
        ("embed", OK_1, features([4]), [("embed", "6 inputs", "4 ok", "1 rejected"), ("embed", "ok = 5", "hold 4")]),
        (
            "embed",
            OK_1,
            features([4, 5, 5]),
            [("embed", "6 inputs", "6 ok", "1 twice"), ("embed", "ok = 5", "hold 6")],
        ),
        ("embed", OK_1, features([5, 4]), [("embed", "ascend")]),
        ("embed", OK_1, features([4, 6]), [("embed", "1 missing", "1 that were never listed")]),
        *(("embed", OK_1, no_direction(value), [("embed", OK_1, "features")]) for value in (0, np.nan, np.inf)),
        ("embed", OK_1, features([4, 5], np.ones((2, 4), np.float16)), [("embed", OK_1, "4 features", "not 3")]),
        ("embed", OK_1, without(features([4, 5]), "features"), [("embed", OK_1, "no column", "features")]),
        ("embed", OK_1, features([4, 5], np.ones((2, 3), np.float32)), [("embed", OK_1, "type fixed_size_list")]),
        (
            "embed",
            OK_1,
            features([4, 5]).set_column(0, "image_id", pa.array([4, None])),
            [("embed", OK_1, "1 rows", "image_id")],
        ),
        ("embed", REJECTS, rejects([3], ["empty"]), [("embed", "{'truncated': 1}", "{'empty': 1}")]),
        (
            "embed",
            OK_1,
            features([4, 5], vectors([5, 4])),
            [("neighbors", NEIGHBORS, "cosine"), ("neighbors", shard_path("neighbors", 1), "cosine")],
        ),
        # the sample, where none is needed
        ("sample", SAMPLE, features([0, 1, 2, 4, 5]), [("sample", "1 files", "heads.max_images", "all 5")]),
        (
            "neighbors",
            NEIGHBORS,
            neighbors([0, 2], [[1, 2], [1, 4, 0]]),
            [("neighbors", OF_FEATURES, "1 missing", "0 extra", "4 rows")],
        ),
        # labels
        ("heads", HEAD_1, head_labels([4, 5], [[0, 2], [1, 0]]), [("heads", HEAD_1, "[0, 2]", "[0, 2)")]),
        ("heads", HEAD_1, head_labels([4, 5], [[0, 1, 1], [1, 0, 0]]), [("heads", HEAD_1, "3 labels", "not 2")]),
        ("consensus", CONSENSUS_1, agreed([4, 5], [-1, 0]), [("consensus", CONSENSUS_1, "[-1, 0]", "[0, 2)")]),
        *(
            (stage, path, make([4, 5], [1, label], [0.5, share]), [(stage, path, name, "[0, 1]")])
            for stage, path, make, name, label in (
                ("consensus", CONSENSUS_1, agreed, "agreement", 0),
                ("predict", PREDICTIONS_1, labels, "confidence", 1),
            )
            for share in (1.5, -0.1, np.nan)
        ),
        ("predict", PREDICTIONS_1, labels([4, 5], [1, 2]), [("predict", PREDICTIONS_1, "[1, 2]", "[0, 2)")]),
        (
            "predict",
            PREDICTIONS_1,
            labels([4, 5], [1, None]),
            [("predict", PREDICTIONS_1, "1 rows", "label")],
        ),
        *(
            ("predict", PREDICTIONS_1, labels(ids, [1, 1]), [("predict", OF_FEATURES, *facts, "5 rows")])
            for ids, *facts in (([5, 4], "0 missing"), ([4, 4], "1 missing", "0 extra"), ([4, 3], "1 extra"))
        ),
        (
            "predict",
            PREDICTIONS_1,
            labels([4, 5], [0, 1]),
            [("predict", "class_sizes = [2, 3]", "hold [3, 2]")],
        ),
        # weights and figures
        *(
            (stage, TENSORS[stage][0], with_a(value, stage), [(stage, TENSORS[stage][0], name, "not finite")])
            for stage, name in (("heads", "bottleneck.bias"), ("classifier", "bias"))
            for value in (float("nan"), float("inf"))
        ),
        *(
            (
                stage,
                TENSORS[stage][0],
                WEIGHTS[stage] | {name: torch.zeros(shape)},
                [(stage, TENSORS[stage][0], name, shape, expected)],
            )
            for stage, name, shape, expected in (
                ("heads", "prototypes", (HEADS, 3, BOTTLENECK), (HEADS, CLUSTERS, BOTTLENECK)),
                ("heads", "more", (1,), None),
                ("classifier", "weight", (CLUSTERS, 4), (CLUSTERS, DIM)),
            )
        ),
        (
            "classifier",
            CLASSIFIER,
            {"weight": WEIGHTS["classifier"]["weight"]},
            [("classifier", CLASSIFIER, "bias", None, (CLUSTERS,))],
        ),
        *(
            ("classifier", DESCRIPTION, DESCRIBED | change, [("classifier", DESCRIPTION, *facts)])
            for change, *facts in (
                ({"classes": 3}, "3 classes", "say 2"),
                ({"columns": [[0, 4]]}, "[(0, 4)]", "width 3"),
                ({"columns": []}, "[]", "width 3"),
                ({"columns": [[0]]}, "columns.0.1 is missing"),
                ({"columns": 7}, "columns = 7"),
                ({"classes": None}, "classes = None"),
            )
        ),
        ("classifier", DESCRIPTION, [1], [("classifier", DESCRIPTION, "[1]")]),
        ("consensus", "consensus/scores.json", SCORES | {"method": "mcla"}, [("consensus", "scores.json")]),
        ("heads", LOSSES, TEMI.slice(0, 4), [("heads", LOSSES, "4 rows", "3 epochs", "2 heads")]),
        (
            "heads",
            LOSSES,
            TEMI.set_column(2, "temi", pa.array([np.nan] * 6, pa.float32())),
            [("heads", LOSSES, "temi", "not finite")],
        ),
    ],
)
def test_content_that_is_wrong(store, stage, path, content, expected):
    replaced(store, stage, path, content)
    finds(store, *expected)


def test_blocks_of_another_width(store):
    for path, ids in ((OK_0, [0, 1, 2]), (OK_1, [4, 5])):
        blocks = list_column(np.ones((len(ids), 6 if path == OK_0 else 7), np.float16))
        replaced(store, "embed", path, features(ids).append_column("cls_blocks", blocks), block_dim=6)
    finds(store, ("embed", OK_1, "7 cls_blocks", "not 6"))


def test_a_shard_of_rejects_only_is_fine(store):
    replaced(store, "embed", shard_path("features/status=ok", 2), features([]))
    replaced(store, "consensus", shard_path("consensus", 2), agreed([], []))
    replaced(store, "neighbors", shard_path("neighbors", 2), neighbors([], []))
    assert lines(store) == []


# -- neighbours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neighbor_ids", "similarities", "facts"),
    [
        ([2, 1], [0.77, 0.94], ["descending"]),
        ([1, 2], [0.94, np.nan], ["descending"]),
        ([1, 2], [0.94, None], ["descending"]),
        ([1, 2, 4], [0.94, 0.77, 0.34], ["threshold 0.5"]),
        ([0, 1], [1.0, 0.94], ["own neighbours"]),
        ([1, 1], [0.94, 0.94], ["twice"]),
        ([1, 3], [0.94, 0.57], ["not in the features"]),
        ([1, 99], [0.94, 0.2], ["not in the features"]),
        ([1, None], [0.94, 0.2], ["not in the features"]),
        ([1], [0.94], ["k_min 2", "k_max 3"]),
        ([1, 2, 4, 5], [0.94, 0.77, 0.6, 0.55], ["k_min 2", "k_max 3"]),
        ([1, 2], [0.94], ["differ in length"]),
        ([1, 2], [0.94, 0.9], ["cosine", "images 0 and 2", "0.9000", "0.7662", "1 of 8"]),
    ],
)
def test_a_bad_list(store, neighbor_ids, similarities, facts):
    others = [[0, 2, 4], [1, 4, 0]]
    true = [cosines(image, ids) for image, ids in enumerate(others, start=1)]
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 1, 2], [neighbor_ids, *others], [similarities, *true]))
    finds(store, ("neighbors", NEIGHBORS, *facts))


def test_rounding_of_the_features_is_no_violation(store):
    table = store.storage.read_table(NEIGHBORS)
    near = [[value - 0.9 * invariants.TOLERANCE for value in row] for row in table["similarities"].to_pylist()]
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 1, 2], table["neighbor_ids"].to_pylist(), near))
    assert lines(store) == []


def test_true_classes_know_no_threshold(tmp_path):
    true = {NEIGHBORS: neighbors([0, 1, 2], [[5], [0, 2, 4, 5], [1, 0]])}
    tables = TABLES | {"neighbors": TABLES["neighbors"] | true}
    overrides = [*OVERRIDES, "neighbors.mode=ground_truth", "neighbors.labels=t.csv"]
    assert lines(Store(made(tmp_path / "run", tables, SUMMARIES, overrides))) == []


# -- the sample ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2], [5], [["seed 27", "5 images"]]),
        ([1], [4], [["1 missing", "2 rows"]]),
        ([1, 2, 3], [4], [["1 extra", "4 rows"]]),
        ([1, 3], [4], [["1 missing", "1 extra"]]),
        ([1, 2], [99], [["1 missing", "1 extra"]]),
        ([1, 1], [4], [["1 missing", "0 extra"]]),
        ([1, 4], [4], [["1 missing", "0 extra"]]),
        ([2, 1], [4], [["0 missing", "0 extra", "in order"]]),
    ],
)
def test_ids_of_the_sample(sampled, first, second, expected):
    replaced(sampled, "sample", SAMPLE, features(first))
    replaced(sampled, "sample", shard_path("sample", 1), features(second))
    finds(sampled, *(["sample", *facts] for facts in expected))


@pytest.mark.parametrize(
    ("stage", "path", "content", "expected"),
    [
        ("sample", SAMPLE, features([1, 2], vectors([1, 5])), ("sample", SAMPLE, "other features")),
        ("sample", SAMPLE, named_otherwise(features([1, 2]), "uri", ["a", "b"]), ("sample", SAMPLE, "another name")),
        ("sample", SAMPLE, without(features([1, 2]), "key"), ("sample", SAMPLE, "no column", "key")),
        ("sample", SAMPLE, without(features([1, 2]), "image_id"), ("sample", SAMPLE, "no column", "image_id")),
        (
            "neighbors",
            NEIGHBORS,
            neighbors([1, 2, 5], [[2, 4], [1, 4], [4, 2]]),
            ("neighbors", "those of the sample", "1 missing", "1 extra", "3 rows"),
        ),
        (
            "neighbors",
            NEIGHBORS,
            neighbors(DRAWN, [[2, 4], [1, 5], [2, 1]]),
            ("neighbors", NEIGHBORS, "not in the sample"),
        ),
        (
            "heads",
            shard_path("head_labels", 0),
            head_labels([1, 2, 5], [[0, 1], [0, 0], [1, 1]]),
            ("heads", "head_labels", "those of the sample", "1 missing", "1 extra"),
        ),
        (
            "consensus",
            CONSENSUS_0,
            agreed([1, 2, 5], [0, 0, 1]),
            ("consensus", "those of the sample", "1 missing", "1 extra"),
        ),
    ],
)
def test_content_of_a_sampled_run_that_is_wrong(sampled, stage, path, content, expected):
    replaced(sampled, stage, path, content)
    finds(sampled, expected)


def test_other_figures_of_the_sample(sampled):
    replaced(sampled, "sample", SAMPLE, features([1, 2]), images=4, of=6, seed=1)
    finds(
        sampled,
        *(
            ("sample", f"{name} = {was}", value)
            for name, was, value in (("images", 4, 3), ("of", 6, 5), ("seed", 1, 27))
        ),
    )


def test_predictions_of_the_sample_only(sampled):
    sizes = {"class_sizes": [2, 1]}
    replaced(sampled, "predict", PREDICTIONS_0, labels([1, 2], [0, 0]), **sizes)
    replaced(sampled, "predict", PREDICTIONS_1, labels([4], [1]), **sizes)
    finds(sampled, ("predict", OF_FEATURES, "2 missing", "0 extra", "3 rows"))


# -- a new artifact ------------------------------------------------------------------------------------------------


def test_a_new_artifact_takes_one_declaration(store, monkeypatch):
    ranks = Table(
        stage="consensus",
        path="ranks",
        columns={"image_id": Column(pa.int64()), "rank": Column(pa.int32(), within=(0, "clusters"))},
        rows="learned",
    )
    declared = (*artifacts.DECLARED, ranks)
    monkeypatch.setattr(artifacts, "DECLARED", declared)
    monkeypatch.setattr(verify, "DECLARED", declared)

    def write(ids, values):
        table = pa.table({"image_id": pa.array(ids, pa.int64()), "rank": pa.array(values, pa.int32())})
        info = ranks.write(store.storage, table, 0)
        marker = store.require("consensus")
        others = [one for one in marker.files if one.path != info.path]
        store.commit("consensus", [info, *others], fingerprint=marker.fingerprint, summary=marker.summary, seconds=0)

    write([0, 1, 2, 4, 5], [0, 1, 0, 1, 0])
    assert lines(store) == []
    write([0, 1, 2, 4, 5], [0, 1, 0, 1, 2])
    finds(store, ("consensus", ranks.part(0), "rank", "[0, 2]", "[0, 2)"))
    write([0, 1, 2, 4, 6], [0, 1, 0, 1, 0])
    finds(store, ("consensus", "ranks", OF_FEATURES, "1 missing", "1 extra"))
    write([0, 1, 2, None, 5], [0, 1, 0, 1, 0])
    finds(store, ("consensus", ranks.part(0), "1 rows", "image_id"))
    store.storage.write_table(ranks.part(1), pa.table({"image_id": [1]}))
    finds(store, ("consensus", ranks.part(1), "no marker"))
    store.discard_from("consensus")
    assert store.storage.list("ranks") == []


# -- what `icce predict` writes ------------------------------------------------------------------------------------


def test_a_flipped_byte_of_the_prediction_file_is_named(predicted):
    data = predicted.storage.read_bytes(PREDICTION_FILE)
    for place in (0, len(data) // 2, len(data) - 1):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        predicted.storage.write_bytes(PREDICTION_FILE, changed)
        assert [line for line in lines(predicted) if PREDICTION_FILE in line], changed


@pytest.mark.parametrize("content", [b"run: [", b"7", b"run: a\n", b"{run: 1, classifier: c, source: a}"])
def test_a_damaged_prediction_file(predicted, content):
    predicted.storage.write_bytes(PREDICTION_FILE, content)
    finds(predicted, ("run", PREDICTION_FILE, "--out"))


def test_a_prediction_of_another_classifier(predicted):
    purpose = {"run": "run", "classifier": "d" * 16, "source": "photos"}
    predicted.storage.write_bytes(PREDICTION_FILE, sealed_yaml(purpose))
    finds(predicted, *((stage, "c" * 16, "d" * 16) for stage in ("list", "predict")))


def test_files_of_a_prediction(predicted):
    path = shard_path("rejects", 0)
    predicted.storage.write_table(shard_path("rejects", 1), rejects([2]))
    finds(predicted, ("predict", shard_path("rejects", 1), "no marker"))
    predicted.storage.delete(shard_path("rejects", 1))
    predicted.storage.delete(path)
    finds(predicted, ("predict", path, "missing"))


@pytest.mark.parametrize(
    ("path", "table", "expected"),
    [
        (
            PREDICTIONS_1,
            labels([4], [1]),
            [
                ("predict", "class_sizes = [2, 3]", "hold [2, 2]"),
                ("predict", "6 inputs", "4 ok", "1 rejected"),
                ("predict", "ok = 5", "hold 4"),
            ],
        ),
        (PREDICTIONS_1, labels([4, 3], [1, 1]), [("predict", "1 missing", "1 twice")]),
        (shard_path("rejects", 0), rejects([5]), [("predict", "1 missing", "1 twice")]),
        (
            shard_path("rejects", 0),
            without(rejects([3]), "reason"),
            [
                ("predict", shard_path("rejects", 0), "no column", "reason"),
            ],
        ),
        (PREDICTIONS_1, labels([4, 5], [1, 2]), [("predict", PREDICTIONS_1, "[1, 2]", "[0, 2)")]),
    ],
)
def test_rows_of_a_prediction(predicted, path, table, expected):
    replaced(predicted, "predict", path, table)
    finds(predicted, *expected)
