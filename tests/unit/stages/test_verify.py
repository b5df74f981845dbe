"""`icce verify`: a whole run gives no line, and each way to break it gives its own line and no other."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.adapters.storage import Storage
from icce_ray.settings import load
from icce_ray.stages.rows import list_column
from icce_ray.stages.verify import violations
from icce_ray.store import ARTIFACTS, MARKER, RunError, Store, fingerprint

OVERRIDES = ["neighbors.k_min=2", "neighbors.k_max=3", "neighbors.threshold=0.5"]
OK_0, OK_1 = (Store.part("features/status=ok", index) for index in range(2))
NEIGHBORS = Store.part("neighbors", 0)
INPUTS = 6


def features(ids):
    vectors = np.stack([np.cos(ids), np.sin(ids), np.ones(len(ids))], axis=1).astype(np.float16)
    return pa.table({"image_id": pa.array(ids, pa.int64()), "features": list_column(vectors)})


def neighbors(ids, neighbor_ids, similarities):
    return pa.table(
        {
            "image_id": pa.array(ids, pa.int64()),
            "neighbor_ids": pa.array(neighbor_ids, pa.large_list(pa.int64())),
            "similarities": pa.array(similarities, pa.large_list(pa.float32())),
        }
    )


def labels(ids, values, column="label"):
    array = pa.array(values, pa.int32()) if column == "label" else list_column(np.array(values, np.int32))
    return pa.table({"image_id": pa.array(ids, pa.int64()), column: array})


#: Six images, of which the fourth is rejected; two shards of features.
TABLES = {
    "list": {Store.part("manifest", 0): pa.table({"image_id": pa.array(range(INPUTS), pa.int64())})},
    "embed": {
        OK_0: features([0, 1, 2]),
        OK_1: features([4, 5]),
        Store.part("features/status=reject", 0): pa.table(
            {"image_id": pa.array([3], pa.int64()), "reason": ["broken"]}
        ),
    },
    "neighbors": {
        NEIGHBORS: neighbors([0, 1, 2], [[1, 2], [0, 2, 4], [1, 0]], [[0.9, 0.2], [0.9, 0.8, 0.5], [0.8, 0.2]]),
        Store.part("neighbors", 1): neighbors([4, 5], [[5, 1], [4, 0]], [[0.7, 0.5], [0.7, 0.1]]),
    },
    "heads": {
        Store.part("head_labels", 0): labels([0, 1, 2], [[0, 1], [0, 0], [1, 1]], "labels"),
        Store.part("head_labels", 1): labels([4, 5], [[0, 1], [1, 0]], "labels"),
        "heads/losses.parquet": pa.table({"temi": [0.5]}),
    },
    "consensus": {
        Store.part("consensus", 0): labels([0, 1, 2], [0, 0, 1]),
        Store.part("consensus", 1): labels([4, 5], [1, 0]),
    },
    "classifier": {"classifier/grid.parquet": pa.table({"accuracy": [1.0]})},
    "predict": {
        Store.part("predictions", 0): labels([0, 1, 2], [0, 0, 1]),
        Store.part("predictions", 1): labels([4, 5], [1, 1]),
    },
}
SUMMARIES = {
    "list": {"images": INPUTS},
    "embed": {"images": INPUTS, "dim": 3},
    "neighbors": {"threshold": 0.5, "k_min": 2, "k_max": 3},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("whole") / "run"))
    settings = load({"source": "photos", "clusters": 2, "out": store.root}, overrides=OVERRIDES)
    store.claim(settings)
    for stage, tables in TABLES.items():
        files = [store.storage.write_table(name, table) for name, table in tables.items()]
        summary = SUMMARIES.get(stage, {})
        store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=0)
    return store.root


@pytest.fixture
def store(whole, tmp_path):
    return Store(str(shutil.copytree(whole, tmp_path / "run")))


def lines(store):
    return list(violations(store))


def replaced(store, stage, path, table):
    """Write another table as if the stage had: the marker knows it."""
    info, marker = store.storage.write_table(path, table), store.require(stage)
    files = [info, *(one for one in marker.files if one.path != path)]
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


def test_a_truncated_file(store):
    data = store.storage.read_bytes("classifier/grid.parquet")
    store.storage.write_bytes("classifier/grid.parquet", data[: len(data) // 2])
    (line,) = lines(store)
    assert "classifier/grid.parquet is not a readable Parquet file" in line


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("embed", "features/status=ok/part-000007.parquet"),
        ("embed", "features/status=reject/deep/part-000000.parquet"),
        ("heads", "head_labels/part-000002.parquet"),
        ("predict", "predictions/copy of part-000000.parquet"),
    ],
)
def test_a_foreign_file(store, stage, name):
    store.storage.write_table(name, labels([9], [0]))
    assert lines(store) == [f"{stage}: {name} is in no marker"]


def test_a_marker_of_other_settings(store):
    marker = store.require("consensus")
    store.commit("consensus", marker.files, fingerprint="0123456789abcdef", summary={}, seconds=0)
    expected = "the settings give " + marker.fingerprint
    assert lines(store) == [f"consensus: its marker has fingerprint 0123456789abcdef, {expected}"]


def test_a_marker_that_cannot_be_read(store):
    store.storage.write_bytes(f"consensus/{MARKER}", b"{")
    (line,) = lines(store)
    assert line.startswith("consensus: ")
    assert "consensus/_manifest.json is damaged" in line


def test_a_stage_before_that_is_not_complete(store):
    store.storage.delete(f"classifier/{MARKER}")
    assert lines(store) == ["predict: complete, but classifier before it is not"]


def test_a_wrong_number_of_rows_in_the_marker(store):
    marker = store.require("consensus")
    files = [dataclasses.replace(marker.files[0], rows=7), *marker.files[1:]]
    store.commit("consensus", files, fingerprint=marker.fingerprint, summary={}, seconds=0)
    (line,) = lines(store)
    assert line.startswith(f"consensus: {marker.files[0].path} has 3 rows")


# -- features --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 4], ["embed: 1 image_ids are there twice"]),
        ([4, 3], ["embed: 1 image_ids are there twice"]),  # ok and reject
        ([4], ["embed: 6 inputs, but 4 ok and 1 rejected"]),
        ([5, 4], ["embed: image_ids do not ascend over the files in the order of their names"]),
        ([4, 6], ["embed: image_ids span [0, 6], outside [0, 6)"]),
        ([4, 5, 5], ["embed: 6 inputs, but 6 ok and 1 rejected", "embed: 1 image_ids are there twice"]),
    ],
)
def test_ids_of_the_features(store, ids, expected):
    replaced(store, "embed", OK_1, features(ids))
    assert lines(store) == expected


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_features_that_are_no_direction(store, value):
    vectors = np.ones((2, 3), np.float16)
    vectors[1] = value
    table = pa.table({"image_id": pa.array([4, 5], pa.int64()), "features": list_column(vectors)})
    replaced(store, "embed", OK_1, table)
    assert lines(store) == [f"embed: {OK_1} has features that are zero or not finite"]


def test_features_of_another_width(store):
    table = pa.table({"image_id": pa.array([4, 5], pa.int64()), "features": list_column(np.ones((2, 4), np.float16))})
    replaced(store, "embed", OK_1, table)
    assert lines(store) == [f"embed: {OK_1} has 4 features, not 3"]


def test_a_shard_of_rejects_only_is_fine(store):
    replaced(store, "embed", Store.part("features/status=ok", 2), features([]))
    replaced(store, "consensus", Store.part("consensus", 2), labels([], []))
    replaced(store, "neighbors", Store.part("neighbors", 2), neighbors([], [], []))
    assert lines(store) == []


# -- neighbours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neighbor_ids", "similarities", "says"),
    [
        ([2, 1], [0.2, 0.9], "has lists that are not descending"),
        ([1, 2], [0.9, np.nan], "has lists that are not descending"),
        ([1, 2, 4], [0.9, 0.6, 0.4], "has neighbours beyond k_min below the threshold 0.5"),
        ([0, 1], [1.0, 0.9], "has an image among its own neighbours"),
        ([1, 1], [0.9, 0.9], "has a neighbour twice in one list"),
        ([1, 3], [0.9, 0.2], "names images that have no features"),
        ([1, 99], [0.9, 0.2], "names images that have no features"),
        ([1], [0.9], "has lists outside k_min 2 to k_max 3"),
        ([1, 2, 4, 5], [0.9, 0.8, 0.7, 0.6], "has lists outside k_min 2 to k_max 3"),
        ([1, 2], [0.9], "has lists of neighbours and of similarities that differ in length"),
    ],
)
def test_a_bad_list(store, neighbor_ids, similarities, says):
    table = neighbors([0, 1, 2], [neighbor_ids, [0, 2, 4], [1, 0]], [similarities, [0.9, 0.8, 0.5], [0.8, 0.2]])
    replaced(store, "neighbors", NEIGHBORS, table)
    (line, *others) = lines(store)
    assert line == f"neighbors: {NEIGHBORS} {says}"
    assert others == []


def test_a_list_too_few(store):
    table = neighbors([0, 2], [[1, 2], [1, 0]], [[0.9, 0.2], [0.8, 0.2]])
    replaced(store, "neighbors", NEIGHBORS, table)
    expected = "neighbors: image_ids are not those of the features in order: 1 missing, 0 extra, 4 rows"
    assert lines(store) == [expected]


def test_true_classes_know_no_threshold(store):
    content = store.storage.read_bytes("run.yaml").decode()
    store.storage.write_bytes(
        "run.yaml",
        content.replace("mode: adaptive", "mode: ground_truth").replace("labels: null", "labels: t.csv").encode(),
    )
    settings = store.settings()
    for stage in ARTIFACTS:
        marker = store.require(stage)
        store.commit(stage, marker.files, fingerprint=fingerprint(settings, stage), summary=marker.summary, seconds=0)
    table = neighbors([0, 1, 2], [[1], [0, 4, 2, 5], [1, 0]], [[0.9], [0.9, 0.1, -0.1, -0.2], [0.8, 0.2]])
    replaced(store, "neighbors", NEIGHBORS, table)
    assert lines(store) == []


# -- labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "artifact", "table", "says"),
    [
        ("heads", "head_labels", labels([4, 5], [[0, 2], [1, 0]], "labels"), "has labels in [0, 2], outside [0, 2)"),
        ("consensus", "consensus", labels([4, 5], [-1, 0]), "has labels in [-1, 0], outside [0, 2)"),
        ("predict", "predictions", labels([4, 5], [1, 2]), "has labels in [1, 2], outside [0, 2)"),
        ("predict", "predictions", labels([4, 5], [1, None]), "has 1 images without a label"),
    ],
)
def test_a_label_out_of_range(store, stage, artifact, table, says):
    path = Store.part(artifact, 1)
    replaced(store, stage, path, table)
    assert lines(store) == [f"{artifact}: {path} {says}"]


@pytest.mark.parametrize(
    ("ids", "says"), [([5, 4], "0 missing, 0 extra"), ([4, 4], "1 missing, 0 extra"), ([4, 3], "1 missing, 1 extra")]
)
def test_labels_of_other_images(store, ids, says):
    replaced(store, "predict", Store.part("predictions", 1), labels(ids, [0, 0]))
    assert lines(store) == [f"predictions: image_ids are not those of the features in order: {says}, 5 rows"]


def test_it_reads_and_never_writes(store, monkeypatch):
    before = {name: store.storage.read_bytes(name) for name, _ in store.storage.list()}
    monkeypatch.setattr(Storage, "write_bytes", lambda *args: pytest.fail("verify wrote a file"))
    assert lines(store) == []
    assert json.loads(before[f"features/{MARKER}"])["stage"] == "embed"
    assert {name: store.storage.read_bytes(name) for name, _ in store.storage.list()} == before
