"""The run on storage: one directory never serves two runs, nothing but a run's own files is ever deleted."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.io.storage import Storage, StorageError
from icce_ray.settings import load
from icce_ray.stages.features import FeatureRows, list_column
from icce_ray.store import RunError, Store, check_content, check_files, fingerprint
from icce_ray.store.artifacts import (
    FEATURES,
    HEAD_LABELS,
    MARKER,
    NEIGHBORS,
    RUN_FILE,
    Document,
    folders_of,
)
from icce_ray.store.artifacts import STAGES as DECLARED
from icce_ray.store.shards import shard_number
from tests.failures import fails

STAGES = list(DECLARED)


def settings_for(store, *overrides, **values):
    return load({"source": "photos", "clusters": 10, "out": store.root} | values, overrides=list(overrides))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def complete(store, settings, stages=STAGES):
    """Every stage with one file and its marker."""
    for stage in stages:
        for artifact in folders_of(stage):
            store.storage.write_bytes(f"{artifact}/data.bin", stage.encode())
        info = store.storage.describe(f"{DECLARED[stage].folder}/data.bin")
        store.commit(stage, [info], fingerprint=fingerprint(settings, stage), summary={}, seconds=0)


def names(store):
    return [name for name, _ in store.storage.list()]


# -- claim -----------------------------------------------------------------------------------------------------


def test_claim_is_true_once_and_keeps_the_settings(store):
    settings = settings_for(store, "heads.heads=3")
    assert store.claim(settings)
    assert not store.claim(settings)
    assert Store(store.root).settings() == settings
    content = store.run_file()
    assert content["fingerprints"] == {stage: fingerprint(settings, stage) for stage in STAGES}
    assert {"python", "ray", "torch", "mtkahypar"} <= set(content["versions"])


def test_other_settings_are_refused_by_name(store):
    store.claim(settings_for(store))
    before = store.storage.read_bytes(RUN_FILE)
    facts = ["clusters: 10 in the run, 12 now", "heads.beta: 0.6 in the run, 0.7 now", "--out", "--redo STAGE"]
    with fails(RunError, *facts) as caught:
        store.claim(settings_for(store, "heads.beta=0.7", clusters=12))
    assert len(str(caught.value).splitlines()) == 4
    assert store.storage.read_bytes(RUN_FILE) == before


def test_resources_and_budget_may_change(store):
    store.claim(settings_for(store))
    assert not store.claim(settings_for(store, "resources.device=cpu", "embed.reject_budget=0.5"))
    assert store.settings().embed.reject_budget == 0.5


def test_redo_deletes_from_its_stage_on_and_takes_new_settings(store):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings)
    changed = settings_for(store, "consensus.methods=[mcla]")
    assert not store.claim(changed, redo="consensus")
    assert [stage for stage in STAGES if store.marker(stage)] == STAGES[: STAGES.index("consensus")]
    assert store.settings() == changed


def test_redo_keeps_what_earlier_stages_depend_on(store):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings)
    before = names(store)
    with fails(RunError, "neighbors.k_min: None in the run, 20 now"):
        store.claim(settings_for(store, "neighbors.k_min=20"), redo="heads")
    with fails(RunError, "clusters: 10 in the run, 12 now"):  # the neighbours' k_max depends on it
        store.claim(settings_for(store, clusters=12), redo="heads")
    assert names(store) == before
    assert not store.claim(settings_for(store, clusters=12), redo="neighbors")


@pytest.mark.parametrize("taken", ["features/mine.txt", "head_labels/deep/mine.txt", "heads", "manifest"])
def test_somebodys_data_is_never_touched(store, taken):
    store.storage.write_bytes(taken, b"mine")
    for claim in (
        lambda: store.claim(settings_for(store)),
        lambda: store.claim(settings_for(store), redo="embed"),
        lambda: store.claim_prediction({"source": "photos"}),
    ):
        with fails(RunError, taken.split("/")[0], "empty --out"):
            claim()
    assert names(store) == [taken]


def test_other_files_may_lie_beside(store):
    store.storage.write_bytes("notes.txt", b"mine")
    assert store.claim(settings_for(store))
    complete(store, settings_for(store), ["list"])
    store.abandon()
    assert names(store) == ["notes.txt"]
    assert store.claim(settings_for(store, clusters=3))


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"", ["damaged", "NoneType"]),
        (b"settings: 3\n", ["settings = 3"]),
        (b"settings: {source: a, clusters: 3, out: b}\nversions: 7", ["versions = 7"]),
        (b"icce_ray: 9.9\nsettings: {source: a, clusters: 3, out: b, warp: 1}\n", ["icce-ray 9.9", "warp = 1"]),
        (b"a: &a [x, x]\nb: [*a, *a]\nsettings: {}", ["anchors"]),
    ],
)
def test_a_run_file_that_cannot_be_used_is_an_error_of_the_run(store, content, facts):
    store.storage.write_bytes(RUN_FILE, content)
    for call in (lambda: store.claim(settings_for(store)), store.settings):
        with fails(RunError, store.root, *facts, "--out") as caught:
            call()
        assert len(str(caught.value)) < 1000


def test_what_is_no_run_says_so(store):
    with fails(RunError, "run.yaml", "icce run"):
        store.run_file()


def test_a_run_may_be_moved(store, tmp_path):
    store.claim(settings_for(store))
    moved = Store(str(tmp_path / "moved"))
    moved.storage.write_bytes(RUN_FILE, store.storage.read_bytes(RUN_FILE))
    assert moved.settings().out == moved.root


# -- files -----------------------------------------------------------------------------------------------------


def _write(store, name):
    store.storage.write_bytes(name, name.encode())
    return True


def test_files_that_were_cut_or_exchanged_are_named_before_work_starts(store):
    complete(store, settings_for(store))
    check_files(store, *STAGES)
    store.storage.write_bytes("embed.txt", b"beside")
    for change, facts in [
        (
            lambda: store.storage.write_bytes("heads/data.bin", b"he"),
            ["heads/data.bin", "2 bytes", "5", "--redo heads"],
        ),
        (lambda: store.storage.delete("heads/data.bin"), ["heads/data.bin", "missing", "--redo heads"]),
    ]:
        change()
        check_files(store, "embed", "consensus")
        with fails(RunError, *facts):
            check_files(store, *STAGES)
        with fails(RunError, facts[0], "--redo heads"):
            check_content(store, "heads", "heads/data.bin")
    store.storage.write_bytes("heads/data.bin", b"HEADS")
    check_files(store, *STAGES)
    with fails(RunError, "heads/data.bin", "--redo heads"):
        check_content(store, "heads", "heads/data.bin")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("features/status=ok/part-000000.parquet", "--redo embed"),
        ("head_labels/part-000000.parquet", "--redo heads"),
        ("predictions/x", "--redo predict"),
        ("sweeps/mine/trials/x.json", "delete sweeps/mine"),
        ("other", "--redo STAGE"),
    ],
)
def test_what_to_do_about_a_damaged_file_depends_on_its_stage(store, path, remedy):
    store.storage.write_bytes(path, b"x")
    assert remedy in store.remedy(path)
    with fails(StorageError if path.endswith("parquet") else RunError, store.storage.uri(path), remedy):
        store.storage.read_table(path) if path.endswith("parquet") else store.document(
            Document(stage="heads", path=path)
        )


@pytest.mark.parametrize("stage", STAGES)
def test_discard_deletes_from_its_stage_on_and_nothing_else(store, stage):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings)
    kept = STAGES[: STAGES.index(stage)]
    store.discard_from(stage)
    left = {artifact for one in kept for artifact in folders_of(one)}
    assert {name.split("/")[0] for name in names(store)} == left | {RUN_FILE}


def test_discard_deletes_markers_before_files(store, monkeypatch):
    settings = settings_for(store)
    complete(store, settings)
    deleted = []
    monkeypatch.setattr(Storage, "delete", lambda _, path: deleted.append(path))
    monkeypatch.setattr(Storage, "delete_tree", lambda _, path: deleted.append(path))
    store.discard_from("classifier")
    folders = ["inspection", "predictions", "classifier"]
    assert deleted == [*(f"{folder}/{MARKER}" for folder in folders), *folders]


def test_parts_are_numbers_of_shards(store):
    others = (
        "neighbors/other.parquet",
        "neighbors/x",
        "neighbors/part-00000x.parquet",
        "neighbors/part-0000003.parquet",
    )
    for name in (NEIGHBORS.part(0), NEIGHBORS.part(12), "neighbors/part-0000003.parquet", *others):
        _write(store, name)
    assert NEIGHBORS.part(12) == "neighbors/part-000012.parquet"
    assert store.parts(NEIGHBORS) == store.parts(NEIGHBORS, of=13) == {0, 12}
    with fails(RunError, NEIGHBORS.part(12), "12 shards", "--redo neighbors"):
        store.parts(NEIGHBORS, of=12)
    assert store.parts(FEATURES) == set()
    assert [
        NEIGHBORS.holds(path) for path in (NEIGHBORS.part(3), FEATURES.part(3), "neighbors", "part-000003.parquet")
    ] == [True, False, False, False]


def test_shards_beyond_a_million_are_read_in_the_order_of_their_numbers(store):
    numbers = [0, 99_999, 100_000, 100_001, 999_999, 1_000_000, 1_000_001, 10_000_000]
    files = [store.storage.write_table(FEATURES.part(n), pa.table({"image_id": [n]})) for n in reversed(numbers)]
    assert FEATURES.part(1_000_001) == "features/status=ok/part-1000001.parquet"
    assert [shard_number(FEATURES.part(number)) for number in numbers] == numbers
    assert store.parts(FEATURES) == set(numbers)
    store.commit("embed", files, fingerprint="f", summary={}, seconds=0)
    assert FeatureRows.of(store).image_ids().tolist() == numbers
    path = store.storage.full_path(f"features/{MARKER}")
    content = json.loads(Path(path).read_text())
    del content["sha256"]
    content["files"].sort(key=lambda info: info["path"])  # as versions before this one wrote them
    Path(path).write_text(json.dumps(content))
    assert FeatureRows.of(store).image_ids().tolist() == numbers
    with fails(RunError, "part-10000000", "1000002 shards"):
        store.parts(FEATURES, of=1_000_002)


def test_a_table_of_other_columns_than_declared_is_not_written(store):
    right = pa.table({"image_id": pa.array([1]), "key": ["a"], "labels": list_column(np.zeros((1, 3), np.int32))})
    assert HEAD_LABELS.write(store.storage, right, 7).path == "head_labels/part-000007.parquet"
    for wrong in (right.drop_columns("key"), right.append_column("more", pa.array([1])), right.select([1, 0, 2])):
        with fails(TypeError, "head_labels/part-000008.parquet", "labels"):
            HEAD_LABELS.write(store.storage, wrong, 8)
    with fails(TypeError, "int64"):
        labels = list_column(np.zeros((1, 3), np.int64))
        HEAD_LABELS.write(store.storage, right.set_column(2, "labels", labels), 8)
    assert names(store) == ["head_labels/part-000007.parquet"]


# -- predictions -----------------------------------------------------------------------------------------------


def test_predictions_are_bound_to_their_source_and_classifier(store):
    purpose = {"run": "/runs/a", "classifier": "c0", "source": "new"}
    store.claim_prediction(purpose)
    store.claim_prediction(purpose)
    with fails(RunError, "classifier: 'c0' there, 'c1' now", "--out"):
        store.claim_prediction(purpose | {"classifier": "c1"})
    assert store.prediction_file() == purpose
    assert "--out" in store.remedy("predictions/part-000000.parquet")
