"""`icce verify`: a whole run gives no line; each way to break it gives its own, with the file and what is wrong."""

import json
import random

import pyarrow as pa
import pytest

from icce_ray.documents import opened_json, opened_yaml, sealed_json, sealed_yaml
from icce_ray.io.storage import Storage
from icce_ray.store import RunError, Store, artifacts, verify_neighbors
from icce_ray.store.artifacts import MARKER, METRICS_FILE, PREDICTION_FILE, RUN_FILE, STAGES
from icce_ray.store.verify import violations
from tests import small_run
from tests.failures import fails
from tests.small_run import (
    C0,
    COUNTS,
    DIM,
    F0,
    M0,
    N0,
    NEW_R0,
    agreed,
    features,
    finds,
    labels,
    neighbors,
    rejects,
    replaced,
)

HEADS_FILE = artifacts.HEAD_WEIGHTS.path


def lines(store):
    return list(violations(store))


def flipped(store, path, place, bit=0):
    data = store.storage.read_bytes(path)
    store.storage.write_bytes(path, data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
    return data


# -- what is whole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [small_run.made, small_run.made_of_sample, small_run.predicted])
def test_what_is_whole_or_under_way_has_no_violations(kind, tmp_path, monkeypatch):
    store = kind(tmp_path / "run")
    before = {path: store.storage.read_bytes(path) for path, _ in store.storage.list()}
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", lambda *_: pytest.fail("verify wrote a file"))
        assert lines(store) == []
    assert {path: store.storage.read_bytes(path) for path, _ in store.storage.list()} == before
    for stage in reversed([stage for stage in STAGES if store.marker(stage)]):
        store.storage.delete(f"{STAGES[stage].folder}/{MARKER}")
        assert lines(store) == []


def test_what_is_unusual_but_right_has_no_violations(run):
    replaced(run, "embed", artifacts.FEATURES.part(2), features([]))  # of rejects only
    width = pa.array([9, 9, 9], pa.int32())  # measured by a later version than the other shards
    replaced(run, "embed", F0, features([0, 1, 2]).append_column("width", width))
    replaced(run, "consensus", artifacts.CONSENSUS.part(2), agreed([], []))
    replaced(run, "neighbors", artifacts.NEIGHBORS.part(2), neighbors([], []))
    table = run.storage.read_table(N0)  # half precision rounds
    near = [[value - 0.9 * verify_neighbors.TOLERANCE for value in row] for row in table["similarities"].to_pylist()]
    replaced(run, "neighbors", N0, neighbors([0, 1, 2], table["neighbor_ids"].to_pylist(), near))
    run.storage.write_bytes("heads/checkpoint.safetensors", b"state")  # of a killed attempt
    run.storage.write_bytes("features/status=ok/.0123abcd.tmp", b"half a shard")
    assert lines(run) == []


def test_true_classes_have_lists_of_any_length_and_similarity(tmp_path):
    true = {N0: neighbors([0, 1, 2], [[5], [0, 2, 4, 5], [1, 0]])}
    files = small_run.FILES | {"neighbors": small_run.FILES["neighbors"] | true}
    overrides = [*small_run.OVERRIDES, "neighbors.mode=ground_truth", "neighbors.labels=t.csv"]
    assert lines(small_run.made(tmp_path / "run", files, overrides=overrides)) == []


def test_what_is_no_run_is_an_error(tmp_path):
    with fails(RunError, tmp_path, RUN_FILE, "icce run"):
        lines(Store(str(tmp_path)))


# -- files and markers ---------------------------------------------------------------------------------------------


def every_file(store):
    """(path, first word of its line) of each file that `verify` answers for."""
    markers = {f"{declared.folder}/{MARKER}": stage for stage, declared in STAGES.items()}
    owners = {info.path: stage for stage in STAGES for info in store.require(stage).files}
    return owners | markers | {RUN_FILE: RUN_FILE, METRICS_FILE: "run"}


def test_a_flipped_byte_of_any_file_is_named(run, predicted):
    draw = random.Random(7)
    cases = [(run, path, start, draw.random()) for path, start in every_file(run).items()]
    cases += [(predicted, PREDICTION_FILE, PREDICTION_FILE, share) for share in (0, 0.5, 0.999)]
    for store, path, start, share in cases:
        size = len(store.storage.read_bytes(path))
        data = flipped(store, path, int(share * size), draw.randrange(8) if store is run else 0)
        said = lines(store)
        assert [line for line in said if line.startswith((f"{start}: ", "run: ")) and path in line], (path, said)
        store.storage.write_bytes(path, data)
    assert lines(run) == lines(predicted) == []


@pytest.mark.parametrize("path", [M0, HEADS_FILE, artifacts.CONSENSUS_SCORES.path])
def test_a_file_that_was_cut_or_is_missing(run, path):
    start, data = every_file(run)[path], run.storage.read_bytes(path)
    run.storage.write_bytes(path, data[: len(data) // 2])
    finds(run, (start, path))
    run.storage.delete(path)
    finds(run, (start, path, "missing"))


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("embed", "features/status=reject/deep/part-000000.parquet"),
        ("heads", "head_labels/part-000002.parquet"),
        ("predict", "predictions/copy of part-000000.parquet"),
    ],
)
def test_a_foreign_file(run, stage, path):
    run.storage.write_table(path, labels([1], [0]))
    finds(run, (stage, path, "no marker"))


def test_files_of_a_prediction(predicted):
    more = artifacts.PREDICTION_REJECTS.part(1)
    predicted.storage.write_table(more, rejects([2]))
    finds(predicted, ("predict", more, "no marker"))
    predicted.storage.delete(more)
    predicted.storage.delete(NEW_R0)
    finds(predicted, ("predict", NEW_R0, "missing"))


def test_markers_that_were_exchanged(run):
    paths = [f"{STAGES[stage].folder}/{MARKER}" for stage in ("classifier", "predict")]
    data = [run.storage.read_bytes(path) for path in paths]
    for path, other in zip(paths, reversed(data), strict=True):
        run.storage.write_bytes(path, other)
    lost = ("inspect", "classifier, predict")
    finds(run, ("classifier", paths[0], "stage predict"), ("predict", paths[1], "stage classifier"), lost)


OF_C0, OF_N0 = ({"path": path, "rows": 3, "bytes": 1, "sha256": "x"} for path in (C0, N0))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"fingerprint": "0" * 16}, ["0" * 16, "the settings give"]),
        ({"files": [OF_C0 | {"rows": 7}]}, [C0, "3 rows", "7 rows"]),
        ({"files": [OF_C0, OF_C0]}, [C0, "2 times"]),
        ({"files": [OF_N0]}, [N0, "none of its files"]),
        ({"summary": {}}, ["cluster_sizes"]),
    ],
)
def test_a_marker_of_something_else(run, change, facts):
    path = f"consensus/{MARKER}"  # with a checksum as its writer would have made
    run.storage.write_bytes(path, sealed_json(opened_json(run.storage.read_bytes(path)) | change))
    said = lines(run)
    assert all(fact in said[0] for fact in facts), said
    assert {line.split(":")[0] for line in said} <= {"consensus", "run"}


def test_a_stage_before_that_is_not_complete(run):
    run.storage.delete(f"{STAGES['classifier'].folder}/{MARKER}")
    finds(run, ("predict", "classifier"), ("inspect", "classifier"))


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("run", RUN_FILE, b"settings: ["),
        ("run", RUN_FILE, b"settings: {clusters: many}"),
        ("predicted", PREDICTION_FILE, b"run: ["),
        ("predicted", PREDICTION_FILE, b"{run: 1, classifier: c, source: a}"),
        *(
            ("run", METRICS_FILE, content)
            for content in (b"{", b"[]", b'{"embed": 3}', b'{"evaluation": {"consensus": {}}}')
        ),
    ],
)
def test_a_file_that_cannot_be_read(name, path, content, request):
    store = request.getfixturevalue(name)
    store.storage.write_bytes(path, content)
    (line,) = lines(store)
    assert line.startswith("run: ")
    assert path in line


def test_settings_that_were_changed(run):
    content = opened_yaml(run.storage.read_bytes(RUN_FILE))
    content["settings"]["seed"] += 1
    run.storage.write_bytes(RUN_FILE, sealed_yaml(content))
    later = ["heads", "consensus", "classifier", "predict", "inspect"]
    own = [(RUN_FILE, run.require(stage).fingerprint, stage) for stage in later]
    finds(run, *own, *((stage, run.require(stage).fingerprint) for stage in later))


def test_a_prediction_of_another_classifier(predicted):
    purpose = {"run": "run", "classifier": "d" * 16, "source": "photos"}
    predicted.storage.write_bytes(PREDICTION_FILE, sealed_yaml(purpose))
    finds(predicted, *((stage, "c" * 16, "d" * 16) for stage in ("list", "predict")))


def test_runs_of_earlier_versions(run):
    for path in every_file(run):  # had no checksums
        if path.endswith(MARKER) or path in (RUN_FILE, METRICS_FILE):
            opened = opened_yaml if path == RUN_FILE else opened_json
            run.storage.write_bytes(path, json.dumps(opened(run.storage.read_bytes(path))).encode())
    assert lines(run) == []
    content = opened_yaml(run.storage.read_bytes(RUN_FILE))
    del content["fingerprints"]["inspect"]  # no such stage yet
    run.storage.write_bytes(RUN_FILE, json.dumps(content).encode())
    assert lines(run) == []
    del content["fingerprints"]["sample"]  # and none in the middle
    run.storage.write_bytes(RUN_FILE, json.dumps(content).encode())
    run.storage.delete(f"sample/{MARKER}")
    finds(run, ("run", RUN_FILE, "sample", "version that wrote it"))


def test_figures_in_the_metrics_file(run):
    figures = run.metrics()
    others = COUNTS | {"ok": 6, "dim": DIM, "block_dim": 0, "extra": 1}
    run.storage.write_bytes(METRICS_FILE, sealed_json(figures | {"embed": others}))
    finds(run, ("run", METRICS_FILE, "embed", "extra, ok"))
    del figures["predict"]  # a kill may keep the last ones from being noted
    run.storage.write_bytes(METRICS_FILE, sealed_json(figures | {"evaluation": {}}))
    assert lines(run) == []
    run.storage.delete(METRICS_FILE)
    assert lines(run) == []
