"""`icce verify`: a whole run gives no line, and each way to break it gives its own line and no other."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from icce_ray.adapters.storage import Storage
from icce_ray.adapters.weights import load_tensors, save_tensors
from icce_ray.settings import load
from icce_ray.stages.rows import list_column
from icce_ray.stages.verify import lists, violations
from icce_ray.store import ARTIFACTS, MARKER, METRICS_FILE, PREDICTION_FILE, RUN_FILE, RunError, Store, fingerprint

INPUTS, CLUSTERS, HEADS, HIDDEN, BOTTLENECK, EPOCHS, DIM = 6, 2, 2, 5, 4, 3, 3
OVERRIDES = ["neighbors.k_min=2", "neighbors.k_max=3", "neighbors.threshold=0.5", f"heads.heads={HEADS}"]
OVERRIDES += [f"heads.hidden={HIDDEN}", f"heads.bottleneck={BOTTLENECK}", f"heads.epochs={EPOCHS}"]
OVERRIDES += ["heads.warmup_epochs=1"]
MANIFEST, NEIGHBORS = Store.part("manifest", 0), Store.part("neighbors", 0)
OK_0, OK_1 = (Store.part("features/status=ok", index) for index in range(2))
REJECTS = Store.part("features/status=reject", 0)
#: Directions of the images in degrees: the similarity of two is the cosine of their difference.
DEGREES = np.array([0, 20, 40, 55, 70, 100])


def named(ids):
    return {
        "image_id": pa.array(ids, pa.int64()),
        "uri": pa.array([f"file:///photos/{index}.png" for index in ids], pa.string()),
        "key": pa.array([f"{index}.png" for index in ids], pa.string()),
    }


def manifest(ids):
    return pa.table(named(ids) | {"size": pa.array([100] * len(ids), pa.int64())})


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
            "neighbor_ids": pa.array(neighbor_ids, pa.large_list(pa.int64())),
            "similarities": pa.array(similarities, pa.large_list(pa.float32())),
        }
    )


def head_labels(ids, values):
    return pa.table({"image_id": pa.array(ids, pa.int64()), "labels": list_column(np.array(values, np.int32))})


def labels(ids, values, share=0.5, name="confidence"):
    shares = [share] * len(ids) if isinstance(share, float) else share
    return pa.table(named(ids) | {"label": pa.array(values, pa.int32()), name: pa.array(shares, pa.float32())})


def agreed(ids, values, share=0.5):
    return labels(ids, values, share, "agreement")


#: Six images, of which the fourth is rejected; two shards of features.
TABLES = {
    "list": {MANIFEST: manifest(range(4)), Store.part("manifest", 1): manifest([4, 5])},
    "embed": {OK_0: features([0, 1, 2]), OK_1: features([4, 5]), REJECTS: rejects([3])},
    "sample": {},
    "neighbors": {
        NEIGHBORS: neighbors([0, 1, 2], [[1, 2], [0, 2, 4], [1, 4, 0]]),
        Store.part("neighbors", 1): neighbors([4, 5], [[5, 2, 1], [4, 2]]),
    },
    "heads": {
        Store.part("head_labels", 0): head_labels([0, 1, 2], [[0, 1], [0, 0], [1, 1]]),
        Store.part("head_labels", 1): head_labels([4, 5], [[0, 1], [1, 0]]),
        "heads/losses.parquet": pa.table(
            {
                "epoch": np.repeat(np.arange(EPOCHS), HEADS),
                "head": np.tile(np.arange(HEADS), EPOCHS),
                "temi": np.linspace(1, 0, EPOCHS * HEADS),
                "cross_entropy": np.linspace(1, 0, EPOCHS * HEADS),
            }
        ),
    },
    "consensus": {
        Store.part("consensus", 0): agreed([0, 1, 2], [0, 0, 1]),
        Store.part("consensus", 1): agreed([4, 5], [1, 0]),
    },
    "classifier": {"classifier/grid.parquet": pa.table({"accuracy": [1.0]})},
    "predict": {
        Store.part("predictions", 0): labels([0, 1, 2], [0, 0, 1]),
        Store.part("predictions", 1): labels([4, 5], [1, 1]),
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
        "heads/heads.safetensors",
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
    for stage in ARTIFACTS:
        files = [store.storage.write_table(name, table) for name, table in tables[stage].items()]
        files += [save_tensors(store.storage, *TENSORS[stage])] if stage in TENSORS else []
        files += [write_json(store, *documents[stage])] if stage in documents else []
        summary = summaries.get(stage, {})
        store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=0)
        if stage != "list":
            store.record(stage, summary | {"seconds": 0.5})
    return store.root


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("whole") / "run", TABLES, SUMMARIES, OVERRIDES)


@pytest.fixture
def store(whole, tmp_path):
    return Store(str(shutil.copytree(whole, tmp_path / "run")))


@pytest.fixture
def predicted(tmp_path):
    """What `icce predict` writes for a source of the six images."""
    store = Store(str(tmp_path / "predicted"))
    store.claim_prediction({"run": "run", "classifier": "c" * 16, "source": "photos"})
    files = [store.storage.write_table(name, table) for name, table in TABLES["list"].items()]
    store.commit("list", files, fingerprint="c" * 16, summary={"images": INPUTS}, seconds=0)
    files = [store.storage.write_table(name, table) for name, table in TABLES["predict"].items()]
    files.append(store.storage.write_table(Store.part("rejects", 0), rejects([3])))
    summary = COUNTS | {"class_sizes": [2, 3]}
    store.commit("predict", files, fingerprint="c" * 16, summary=summary, seconds=0)
    return store


def lines(store):
    return list(violations(store))


def replaced(store, stage, path, content, **summary):
    """Write another content as if the stage had: the marker knows it, and other figures if there are any."""
    if isinstance(content, pa.Table):
        info = store.storage.write_table(path, content)
    elif path.endswith(".json"):
        info = write_json(store, path, content)
    else:
        info = save_tensors(store.storage, path, content)
    marker = store.require(stage)
    figures = marker.summary | summary
    files = [info, *(one for one in marker.files if one.path != path)]
    store.commit(stage, files, fingerprint=marker.fingerprint, summary=figures, seconds=0)
    if summary:
        store.record(stage, figures)


def recommitted(store, stage, files):
    marker = store.require(stage)
    store.commit(stage, files, fingerprint=marker.fingerprint, summary=marker.summary, seconds=0)


def test_a_whole_run_has_no_violations(store):
    assert lines(store) == []


@pytest.mark.parametrize("stages", range(len(ARTIFACTS)))
def test_a_run_that_is_under_way_has_none(store, stages):
    for stage in list(ARTIFACTS)[stages:]:
        store.storage.delete(f"{ARTIFACTS[stage]}/{MARKER}")
    assert lines(store) == []


def test_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        lines(Store(str(tmp_path)))


# -- files and markers -----------------------------------------------------------------------------------------


def test_a_missing_file(store):
    store.storage.delete(OK_1)
    assert lines(store) == [f"embed: {OK_1} is missing"]


@pytest.mark.parametrize("place", [10, -4])
def test_a_flipped_byte(store, place):
    data = bytearray(store.storage.read_bytes(NEIGHBORS))
    data[place] ^= 1
    store.storage.write_bytes(NEIGHBORS, bytes(data))
    (line,) = lines(store)
    assert line.startswith("neighbors: ")
    assert NEIGHBORS in line
    assert ("sha256" in line) == (place > 0)  # the last bytes say that it is Parquet
    assert ("is not a readable Parquet file" in line) == (place < 0)


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("list", MANIFEST),
        ("embed", OK_0),
        ("heads", "heads/heads.safetensors"),
        ("consensus", "consensus/scores.json"),
        ("classifier", "classifier/classifier.json"),
        ("classifier", "classifier/grid.parquet"),
    ],
)
def test_a_truncated_file(store, stage, path):
    data = store.storage.read_bytes(path)
    store.storage.write_bytes(path, data[: len(data) // 2])
    (line,) = lines(store)
    assert line.startswith(f"{stage}: ")
    assert path in line
    assert "is not a readable Parquet file" in line or f"has {len(data) // 2} bytes" in line


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("list", "manifest/part-000002.parquet"),
        ("embed", "features/status=ok/part-000007.parquet"),
        ("embed", "features/status=reject/deep/part-000000.parquet"),
        ("heads", "head_labels/part-000002.parquet"),
        ("predict", "predictions/copy of part-000000.parquet"),
    ],
)
def test_a_foreign_file(store, stage, name):
    store.storage.write_table(name, labels([1], [0]))
    assert lines(store) == [f"{stage}: {name} is in no marker"]


def test_leftovers_of_a_killed_attempt_are_no_shards(store):
    store.storage.write_bytes("heads/checkpoint.safetensors", b"state")
    store.storage.write_bytes("features/status=ok/.0123abcd.tmp", b"half a shard")
    assert lines(store) == []


def test_a_marker_of_other_settings(store):
    marker = store.require("consensus")
    store.commit("consensus", marker.files, fingerprint="0123456789abcdef", summary=SCORES, seconds=0)
    expected = "the settings give " + marker.fingerprint
    assert lines(store) == [f"consensus: its marker has fingerprint 0123456789abcdef, {expected}"]


def test_a_marker_that_cannot_be_read(store):
    store.storage.write_bytes(f"predictions/{MARKER}", b"{")
    (line,) = lines(store)
    assert line.startswith("predict: ")
    assert f"predictions/{MARKER} is damaged" in line


def test_a_marker_of_another_stage(store):
    data = json.loads(store.storage.read_bytes(f"predictions/{MARKER}"))
    write_json(store, f"predictions/{MARKER}", data | {"stage": "consensus"})
    assert lines(store) == ["predict: its marker is that of stage consensus"]


@pytest.mark.parametrize("stage", ["classifier", "embed"])
def test_a_stage_before_that_is_not_complete(store, stage):
    store.storage.delete(f"{ARTIFACTS[stage]}/{MARKER}")
    later = list(ARTIFACTS)[list(ARTIFACTS).index(stage) + 1 :]
    assert lines(store) == [f"{name}: complete, but {stage} before it is not" for name in later]


def test_a_wrong_number_of_rows_in_the_marker(store):
    first, *others = store.require("consensus").files
    recommitted(store, "consensus", [dataclasses.replace(first, rows=7), *others])
    (line,) = lines(store)
    assert line.startswith(f"consensus: {first.path} has 3 rows")


def test_a_file_twice_in_a_marker(store):
    files = store.require("consensus").files
    recommitted(store, "consensus", [*files, files[0]])
    assert lines(store) == [f"consensus: its marker lists {files[0].path} 2 times"]


def test_a_file_of_another_stage_in_a_marker(store):
    foreign = store.require("neighbors").files[0]
    recommitted(store, "consensus", [*store.require("consensus").files, foreign])
    assert lines(store) == [f"consensus: its marker lists {foreign.path}, which is none of its files"]


@pytest.mark.parametrize("content", [b"settings: [", b"\xff\xfe", b"settings: 7", b"settings: {clusters: many}"])
def test_a_damaged_run_file(store, content):
    store.storage.write_bytes(RUN_FILE, content)
    (line,) = lines(store)
    assert line.startswith("run: ")
    assert RUN_FILE in line


def test_other_settings_in_the_run_file(store):
    content = yaml.safe_load(store.storage.read_bytes(RUN_FILE))
    content["settings"]["seed"] += 1
    store.storage.write_bytes(RUN_FILE, yaml.safe_dump(content).encode())
    found = lines(store)
    later = ["heads", "consensus", "classifier", "predict"]
    assert [line.split(",")[0] for line in found[:4]] == [
        f"run.yaml: notes fingerprint {store.require(stage).fingerprint} for stage {stage}" for stage in later
    ]
    assert [line.split(":")[0] for line in found[4:]] == later


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_metrics_file(store, content):
    store.storage.write_bytes(METRICS_FILE, content)
    (line,) = lines(store)
    assert line.startswith(f"run: {METRICS_FILE} ")


def test_other_figures_in_the_metrics_file(store):
    store.record("embed", COUNTS | {"ok": 6, "dim": DIM, "block_dim": 0, "extra": 1})
    assert lines(store) == [f"run: {METRICS_FILE} has other figures of embed than its marker: extra, ok"]


def test_metrics_that_a_kill_kept_from_being_noted(store):
    figures = store.metrics()
    del figures["predict"]
    write_json(store, METRICS_FILE, figures | {"evaluation": {}})
    assert lines(store) == []
    store.storage.delete(METRICS_FILE)
    assert lines(store) == []


# -- manifest and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [[0, 1, 3, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_ids_of_the_manifest(store, ids):
    replaced(store, "list", MANIFEST, manifest(ids))
    assert lines(store) == [f"list: {MANIFEST} has image_ids that are not 0 to 3 in order"]


def test_a_manifest_of_fewer_images(store):
    replaced(store, "list", Store.part("manifest", 1), manifest([4]))
    assert lines(store) == ["list: 5 images in its files, 6 in its marker"]


def test_a_manifest_without_a_name(store):
    table = manifest(range(4))
    replaced(store, "list", MANIFEST, table.set_column(1, "uri", pa.array(["a", None, "c", "d"])))
    assert lines(store) == [f"list: {MANIFEST} has 1 rows without 'uri'"]


@pytest.mark.parametrize("name", ["uri", "key"])
@pytest.mark.parametrize(
    ("stage", "what", "path", "table"),
    [
        ("embed", "embed", OK_0, features([0, 1, 2])),
        ("embed", "embed", REJECTS, rejects([3])),
        ("consensus", "consensus", Store.part("consensus", 0), agreed([0, 1, 2], [0, 0, 1])),
        ("predict", "predictions", Store.part("predictions", 0), labels([0, 1, 2], [0, 0, 1])),
    ],
)
def test_swapped_names(store, name, stage, what, path, table):
    swapped = [*table[name].to_pylist()[1:], "another.png"]
    changed = table.set_column(table.column_names.index(name), name, pa.array(swapped, pa.string()))
    replaced(store, stage, path, changed)
    first = table["image_id"][0].as_py()
    assert lines(store) == [
        f"{what}: {path} has {len(table)} images under another name than the manifest's, the first {first}"
    ]


@pytest.mark.parametrize("name", ["uri", "key"])
def test_names_that_are_missing(store, name):
    path = Store.part("predictions", 1)
    replaced(store, "predict", path, labels([4, 5], [1, 1]).drop_columns(name))
    assert lines(store) == [f"predictions: {path} has no column ['{name}']"]
    replaced(store, "list", MANIFEST, manifest(range(4)).drop_columns(name))
    assert lines(store) == [f"list: {MANIFEST} has no column ['{name}']"]


def test_a_changed_manifest_shows_where_the_images_went_on(store):
    table = manifest(range(4))
    replaced(store, "list", MANIFEST, table.set_column(1, "uri", pa.array(["a", "b", "c", "d"])))
    found = lines(store)
    assert [line.split(" has ")[0] for line in found] == [
        f"embed: {REJECTS}",
        f"embed: {OK_0}",
        f"consensus: {Store.part('consensus', 0)}",
        f"predictions: {Store.part('predictions', 0)}",
    ]


# -- features --------------------------------------------------------------------------------------------------

OK_SAYS = "embed: its marker says ok = 5, its files hold {}"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 4], ["embed: 1 image_ids are there twice"]),
        ([4, 3], ["embed: 1 image_ids are there twice"]),  # ok and reject
        ([4, 0], ["embed: 1 image_ids are there twice"]),  # across shards
        ([4], ["embed: 6 inputs, but 4 ok and 1 rejected", OK_SAYS.format(4)]),
        ([5, 4], ["embed: image_ids do not ascend over the files in the order of their names"]),
        ([4, 6], ["embed: image_ids span [0, 6], outside [0, 6)"]),
        (
            [4, 5, 5],
            ["embed: 6 inputs, but 6 ok and 1 rejected", "embed: 1 image_ids are there twice", OK_SAYS.format(6)],
        ),
    ],
)
def test_ids_of_the_features(store, ids, expected):
    replaced(store, "embed", OK_1, features(ids))
    assert lines(store) == expected


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_features_that_are_no_direction(store, value):
    values = vectors([4, 5])
    values[1] = value
    replaced(store, "embed", OK_1, features([4, 5], values))
    assert lines(store) == [f"embed: {OK_1} has features that are zero or not finite"]


def test_features_of_another_width(store):
    replaced(store, "embed", OK_1, features([4, 5], np.ones((2, 4), np.float16)))
    assert lines(store) == [f"embed: {OK_1} has 4 features, not 3"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (features([4, 5]).drop_columns("features"), "has no column 'features'"),
        (features([4, 5], np.ones((2, 3), np.float32)), "has a column 'features' of type fixed_size_list"),
        (features([4, 5]).set_column(0, "image_id", pa.array([4, None])), "has 1 rows without 'image_id'"),
    ],
)
def test_columns_of_the_features(store, table, says):
    replaced(store, "embed", OK_1, table)
    (line,) = lines(store)
    assert line.startswith(f"embed: {OK_1} {says}")


def test_blocks_of_another_width(store):
    for path, ids in ((OK_0, [0, 1, 2]), (OK_1, [4, 5])):
        blocks = list_column(np.ones((len(ids), 6 if path == OK_0 else 7), np.float16))
        replaced(store, "embed", path, features(ids).append_column("cls_blocks", blocks), block_dim=6)
    assert lines(store) == [f"embed: {OK_1} has 7 cls_blocks, not 6"]


def test_reasons_of_the_rejects(store):
    replaced(store, "embed", REJECTS, rejects([3], ["empty"]))
    expected = "embed: its marker says rejected_by_reason = {'truncated': 1}, its files hold {'empty': 1}"
    assert lines(store) == [expected]


def test_a_shard_of_rejects_only_is_fine(store):
    replaced(store, "embed", Store.part("features/status=ok", 2), features([]))
    replaced(store, "consensus", Store.part("consensus", 2), agreed([], []))
    replaced(store, "neighbors", Store.part("neighbors", 2), neighbors([], []))
    assert lines(store) == []


# -- neighbours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neighbor_ids", "similarities", "says"),
    [
        ([2, 1], [0.77, 0.94], "has lists that are not descending"),
        ([1, 2], [0.94, np.nan], "has lists that are not descending"),
        ([1, 2], [0.94, None], "has lists that are not descending"),
        ([1, 2, 4], [0.94, 0.77, 0.34], "has neighbours beyond k_min below the threshold 0.5"),
        ([0, 1], [1.0, 0.94], "has an image among its own neighbours"),
        ([1, 1], [0.94, 0.94], "has a neighbour twice in one list"),
        ([1, 3], [0.94, 0.57], "names images that are not in the features"),
        ([1, 99], [0.94, 0.2], "names images that are not in the features"),
        ([1, None], [0.94, 0.2], "names images that are not in the features"),
        ([1], [0.94], "has lists outside k_min 2 to k_max 3"),
        ([1, 2, 4, 5], [0.94, 0.77, 0.6, 0.55], "has lists outside k_min 2 to k_max 3"),
        ([1, 2], [0.94], "has lists of neighbours and of similarities that differ in length"),
        (
            [1, 2],
            [0.94, 0.9],
            "has similarities that are not the cosine of the two features: of images 0 and 2 it says 0.9000, "
            "the features give 0.7662 (1 of 8 looked at)",
        ),
    ],
)
def test_a_bad_list(store, neighbor_ids, similarities, says):
    others = [[0, 2, 4], [1, 4, 0]]
    true = [cosines(image, ids) for image, ids in enumerate(others, start=1)]
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 1, 2], [neighbor_ids, *others], [similarities, *true]))
    assert lines(store) == [f"neighbors: {NEIGHBORS} {says}"]


def test_features_of_another_image(store):
    values = vectors([4, 5])[::-1].copy()
    replaced(store, "embed", OK_1, features([4, 5], values))
    found = lines(store)
    assert len(found) == 2
    assert all("are not the cosine of the two features" in line for line in found)


def test_rounding_of_the_features_is_no_violation(store):
    table = store.storage.read_table(NEIGHBORS)
    near = [[value - 0.9 * lists.TOLERANCE for value in row] for row in table["similarities"].to_pylist()]
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 1, 2], table["neighbor_ids"].to_pylist(), near))
    assert lines(store) == []


def test_a_list_too_few(store):
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 2], [[1, 2], [1, 4, 0]]))
    expected = "neighbors: image_ids are not those of the features in order: 1 missing, 0 extra, 4 rows"
    assert lines(store) == [expected]


def test_true_classes_know_no_threshold(store):
    content = store.storage.read_bytes(RUN_FILE).decode()
    content = content.replace("mode: adaptive", "mode: ground_truth").replace("labels: null", "labels: t.csv")
    store.storage.write_bytes(RUN_FILE, content.encode())
    settings = store.settings()
    content = yaml.safe_load(content) | {"fingerprints": {stage: fingerprint(settings, stage) for stage in ARTIFACTS}}
    store.storage.write_bytes(RUN_FILE, yaml.safe_dump(content).encode())
    for stage in ARTIFACTS:
        marker = store.require(stage)
        store.commit(stage, marker.files, fingerprint=fingerprint(settings, stage), summary=marker.summary, seconds=0)
    replaced(store, "neighbors", NEIGHBORS, neighbors([0, 1, 2], [[5], [0, 2, 4, 5], [1, 0]]))
    assert lines(store) == []


# -- labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "artifact", "table", "says"),
    [
        ("heads", "head_labels", head_labels([4, 5], [[0, 2], [1, 0]]), "has labels in [0, 2], outside [0, 2)"),
        ("heads", "head_labels", head_labels([4, 5], [[0, 1, 1], [1, 0, 0]]), "has 3 labels, not 2"),
        ("consensus", "consensus", agreed([4, 5], [-1, 0]), "has labels in [-1, 0], outside [0, 2)"),
        ("consensus", "consensus", agreed([4, 5], [1, 0], [0.5, 1.5]), "has values of agreement outside [0, 1]"),
        ("predict", "predictions", labels([4, 5], [1, 2]), "has labels in [1, 2], outside [0, 2)"),
        ("predict", "predictions", labels([4, 5], [1, 1], [0.5, np.nan]), "has values of confidence outside [0, 1]"),
        ("predict", "predictions", labels([4, 5], [1, 1], [-0.1, 0.5]), "has values of confidence outside [0, 1]"),
    ],
)
def test_a_label_out_of_range(store, stage, artifact, table, says):
    path = Store.part(artifact, 1)
    replaced(store, stage, path, table)
    assert lines(store) == [f"{artifact}: {path} {says}"]


def test_an_image_without_a_label(store):
    path = Store.part("predictions", 1)
    replaced(store, "predict", path, labels([4, 5], [1, None]))
    assert lines(store) == [
        f"predictions: {path} has 1 rows without 'label'",
        "predictions: image_ids are not those of the features in order: 2 missing, 0 extra, 3 rows",
    ]


@pytest.mark.parametrize(
    ("ids", "says"), [([5, 4], "0 missing, 0 extra"), ([4, 4], "1 missing, 0 extra"), ([4, 3], "1 missing, 1 extra")]
)
def test_labels_of_other_images(store, ids, says):
    replaced(store, "predict", Store.part("predictions", 1), labels(ids, [1, 1]))
    assert lines(store) == [f"predictions: image_ids are not those of the features in order: {says}, 5 rows"]


def test_class_sizes_that_the_labels_do_not_have(store):
    replaced(store, "predict", Store.part("predictions", 1), labels([4, 5], [0, 1]))
    assert lines(store) == ["predict: its marker says class_sizes = [2, 3], its files hold [3, 2]"]


# -- the sample ------------------------------------------------------------------------------------------------

SAMPLE = Store.part("sample", 0)
#: Of the accepted images 0, 1, 2, 4, 5 these are the ones that seed 27 draws.
DRAWN = [1, 2, 4]
OF_SAMPLE = TABLES | {
    "sample": {SAMPLE: features([1, 2]), Store.part("sample", 1): features([4])},
    "neighbors": {NEIGHBORS: neighbors(DRAWN, [[2, 4], [1, 4], [2, 1]])},
    "heads": {
        Store.part("head_labels", 0): head_labels(DRAWN, [[0, 1], [0, 0], [1, 1]]),
        "heads/losses.parquet": TABLES["heads"]["heads/losses.parquet"],
    },
    "consensus": {Store.part("consensus", 0): agreed(DRAWN, [0, 0, 1])},
}
SAMPLE_SUMMARIES = SUMMARIES | {
    "sample": {"images": 3, "of": 5, "seed": 27},
    "consensus": SCORES | {"cluster_sizes": [2, 1]},
}


@pytest.fixture(scope="module")
def whole_of_sample(tmp_path_factory):
    overrides = [*OVERRIDES, "heads.max_images=3", "heads.sample_seed=27"]
    return made(tmp_path_factory.mktemp("sampled") / "run", OF_SAMPLE, SAMPLE_SUMMARIES, overrides)


@pytest.fixture
def sampled(whole_of_sample, tmp_path):
    return Store(str(shutil.copytree(whole_of_sample, tmp_path / "run")))


def test_a_whole_run_on_a_sample_has_no_violations(sampled):
    assert lines(sampled) == []
    for stage in reversed(ARTIFACTS):  # nor on its way there
        sampled.storage.delete(f"{ARTIFACTS[stage]}/{MARKER}")
        assert lines(sampled) == []


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([1, 2], [5], ["image_ids are not those that seed 27 draws from 5 images"]),
        ([1], [4], ["2 images in its files, not 3"]),
        ([1, 2, 3], [4], ["4 images in its files, not 3", "1 image_ids are of no accepted image"]),
        ([1, 3], [4], ["1 image_ids are of no accepted image"]),
        ([1, 2], [99], ["1 image_ids are of no accepted image"]),
        ([1, 1], [4], ["1 image_ids are there twice"]),
        ([1, 4], [4], ["1 image_ids are there twice"]),
        ([2, 1], [4], ["image_ids do not ascend over the files in the order of their names"]),
    ],
)
def test_ids_of_the_sample(sampled, first, second, says):
    replaced(sampled, "sample", SAMPLE, features(first))
    replaced(sampled, "sample", Store.part("sample", 1), features(second))
    assert lines(sampled) == [f"sample: {line}" for line in says]


def changed_features(name, values):
    return features([1, 2]).set_column(features([1, 2]).column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (features([1, 2], vectors([1, 5])), "has other features than the features of its images"),
        (changed_features("uri", pa.array(["a", "b"])), "has other uri than the features of its images"),
        (
            features([1, 2]).drop_columns("key"),
            "has columns ['image_id', 'uri', 'features'], the features have ['image_id', 'uri', 'key', 'features']",
        ),
        (features([1, 2]).drop_columns("image_id"), "has no column 'image_id'"),
    ],
)
def test_rows_of_the_sample(sampled, table, says):
    replaced(sampled, "sample", SAMPLE, table)
    assert lines(sampled) == [f"sample: {SAMPLE} {says}"]


def test_other_figures_of_the_sample(sampled):
    replaced(sampled, "sample", SAMPLE, features([1, 2]), images=4, of=6, seed=1)
    assert lines(sampled) == [
        f"sample: its marker says {name} = {was}, settings and features give {value}"
        for name, was, value in (("images", 4, 3), ("of", 6, 5), ("seed", 1, 27))
    ]


def test_a_sample_where_none_is_needed(store):
    replaced(store, "sample", SAMPLE, features([0, 1, 2, 4, 5]))
    assert lines(store) == ["sample: has 1 files, but heads.max_images allows all 5 images"]


@pytest.mark.parametrize(
    ("stage", "artifact", "table"),
    [
        ("neighbors", "neighbors", neighbors([1, 2, 5], [[2, 4], [1, 4], [4, 2]])),
        ("heads", "head_labels", head_labels([1, 2, 5], [[0, 1], [0, 0], [1, 1]])),
        ("consensus", "consensus", agreed([1, 2, 5], [0, 0, 1])),
    ],
)
def test_stages_that_saw_other_images_than_the_sample(sampled, stage, artifact, table):
    replaced(sampled, stage, Store.part(artifact, 0), table)
    assert lines(sampled) == [f"{artifact}: image_ids are not those of the sample in order: 1 missing, 1 extra, 3 rows"]


def test_neighbours_outside_the_sample(sampled):
    replaced(sampled, "neighbors", NEIGHBORS, neighbors(DRAWN, [[2, 4], [1, 5], [2, 1]]))
    assert lines(sampled) == [f"neighbors: {NEIGHBORS} names images that are not in the sample"]


def test_predictions_of_the_sample_only(sampled):
    sizes = {"class_sizes": [2, 1]}
    replaced(sampled, "predict", Store.part("predictions", 0), labels([1, 2], [0, 0]), **sizes)
    replaced(sampled, "predict", Store.part("predictions", 1), labels([4], [1]), **sizes)
    assert lines(sampled) == [
        "predictions: image_ids are not those of the features in order: 2 missing, 0 extra, 3 rows"
    ]


def test_a_run_of_a_version_without_samples(store):
    content = yaml.safe_load(store.storage.read_bytes(RUN_FILE))
    del content["fingerprints"]["sample"]
    store.storage.write_bytes(RUN_FILE, yaml.safe_dump(content).encode())
    store.storage.delete(f"sample/{MARKER}")
    (line,) = lines(store)
    assert line.startswith(f"run: {RUN_FILE} is of a version of icce-ray with other stages (sample), ")


# -- weights and figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["heads", "classifier"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(store, stage, value):
    path, tensors = TENSORS[stage]
    name = sorted(tensors)[0]
    changed = tensors[name].clone()
    changed.view(-1)[0] = value
    replaced(store, stage, path, tensors | {name: changed})
    assert lines(store) == [f"{stage}: {path} has values in {name} that are not finite"]


@pytest.mark.parametrize(
    ("stage", "name", "shape", "expected"),
    [
        ("heads", "prototypes", (HEADS, 3, BOTTLENECK), (HEADS, CLUSTERS, BOTTLENECK)),
        ("heads", "more", (1,), None),
        ("classifier", "weight", (CLUSTERS, 4), (CLUSTERS, DIM)),
        ("classifier", "bias", (3,), (CLUSTERS,)),
    ],
)
def test_weights_of_another_shape(store, stage, name, shape, expected):
    path, tensors = TENSORS[stage]
    replaced(store, stage, path, tensors | {name: torch.zeros(shape)})
    assert lines(store) == [f"{stage}: {path} has {name} of shape {shape}, expected is {expected}"]


def test_weights_that_are_missing(store):
    path, tensors = TENSORS["classifier"]
    replaced(store, "classifier", path, {"weight": tensors["weight"]})
    assert lines(store) == [f"classifier: {path} has bias of shape None, expected is (2,)"]
    assert list(load_tensors(store.storage, path)) == ["weight"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 3}, "is of 3 classes, the settings say 2"),
        ({"columns": [[0, 4]]}, "reads columns [(0, 4)] of features of width 3"),
        ({"columns": []}, "reads columns [] of features of width 3"),
        ({"columns": [[0]]}, "cannot be used: ValueError: not enough values to unpack (expected 2, got 1)"),
    ],
)
def test_a_classifier_that_reads_something_else(store, change, says):
    path, description = DOCUMENTS["classifier"]
    replaced(store, "classifier", path, description | change)
    assert lines(store) == [f"classifier: {path} {says}"]


def test_other_scores_of_the_consensus(store):
    path, scores = DOCUMENTS["consensus"]
    replaced(store, "consensus", path, scores | {"method": "mcla"})
    assert lines(store) == [f"consensus: {path} has other figures than the marker"]


def test_losses_of_too_few_epochs(store):
    table = TABLES["heads"]["heads/losses.parquet"]
    replaced(store, "heads", "heads/losses.parquet", table.slice(0, 4))
    assert lines(store) == ["heads: heads/losses.parquet has 4 rows, not 3 epochs of 2 heads"]
    replaced(store, "heads", "heads/losses.parquet", table.set_column(2, "temi", pa.array([np.nan] * 6)))
    assert lines(store) == ["heads: heads/losses.parquet has losses that are not finite"]


# -- what `icce predict` writes ------------------------------------------------------------------------------------


def test_a_whole_prediction_has_no_violations(predicted):
    assert lines(predicted) == []


def test_a_prediction_that_is_under_way_has_none(predicted):
    predicted.storage.delete(f"predictions/{MARKER}")
    assert lines(predicted) == []
    predicted.storage.delete(f"manifest/{MARKER}")
    assert lines(predicted) == []


@pytest.mark.parametrize("content", [b"run: [", b"7", b"run: a\n"])
def test_a_damaged_prediction_file(predicted, content):
    predicted.storage.write_bytes(PREDICTION_FILE, content)
    (line,) = lines(predicted)
    assert line.startswith(f"prediction: {PREDICTION_FILE} ")


def test_a_prediction_of_another_classifier(predicted):
    purpose = {"run": "run", "classifier": "d" * 16, "source": "photos"}
    predicted.storage.write_bytes(PREDICTION_FILE, yaml.safe_dump(purpose).encode())
    assert lines(predicted) == [
        f"{stage}: its marker has fingerprint {'c' * 16}, the settings give {'d' * 16}" for stage in ("list", "predict")
    ]


def test_files_of_a_prediction(predicted):
    path = Store.part("rejects", 0)
    predicted.storage.write_table(Store.part("rejects", 1), rejects([2]))
    assert lines(predicted) == [f"predict: {Store.part('rejects', 1)} is in no marker"]
    predicted.storage.delete(Store.part("rejects", 1))
    predicted.storage.delete(path)
    assert lines(predicted) == [f"predict: {path} is missing"]


@pytest.mark.parametrize(
    ("path", "table", "says"),
    [
        (
            Store.part("predictions", 1),
            labels([4], [1]),
            [
                "predict: its marker says class_sizes = [2, 3], its files hold [2, 2]",
                "predict: 6 inputs, but 4 ok and 1 rejected",
                "predict: its marker says ok = 5, its files hold 4",
            ],
        ),
        (Store.part("predictions", 1), labels([4, 3], [1, 1]), ["predict: 1 image_ids are there twice"]),
        (Store.part("rejects", 0), rejects([5]), ["predict: 1 image_ids are there twice"]),
        (
            Store.part("predictions", 1),
            labels([4, 5], [1, 2]),
            [f"predictions: {Store.part('predictions', 1)} has labels in [1, 2], outside [0, 2)"],
        ),
        (
            Store.part("predictions", 1),
            labels([4, 5], [1, 1], [0.5, 1.1]),
            [f"predictions: {Store.part('predictions', 1)} has values of confidence outside [0, 1]"],
        ),
    ],
)
def test_rows_of_a_prediction(predicted, path, table, says):
    replaced(predicted, "predict", path, table)
    assert lines(predicted) == says


def test_it_reads_and_never_writes(store, monkeypatch):
    before = {name: store.storage.read_bytes(name) for name, _ in store.storage.list()}
    monkeypatch.setattr(Storage, "write_bytes", lambda *args: pytest.fail("verify wrote a file"))
    assert lines(store) == []
    assert json.loads(before[f"features/{MARKER}"])["stage"] == "embed"
    assert {name: store.storage.read_bytes(name) for name, _ in store.storage.list()} == before
