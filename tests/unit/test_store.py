"""The run on storage: one directory never serves two runs, nothing but a run's own files is ever deleted."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.documents import DocumentError
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
    checkpoint_of,
    folders_of,
    shard_number,
)
from icce_ray.store.artifacts import STAGES as DECLARED
from icce_ray.store.seals import opened_json, opened_yaml, sealed_json, sealed_yaml
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
    with fails(RunError, "neighbors.k_min: 50 in the run, 20 now"):
        store.claim(settings_for(store, "neighbors.k_min=20"), redo="heads")
    with fails(RunError, "clusters: 10 in the run, 12 now"):  # the neighbours' k_max depends on it
        store.claim(settings_for(store, clusters=12), redo="heads")
    with fails(RunError, "--redo head", "list, embed"):
        store.claim(settings, redo="head")
    assert names(store) == before
    assert not store.claim(settings_for(store, clusters=12), redo="neighbors")


def test_an_unknown_stage_to_redo_claims_nothing(store):
    with fails(RunError, "--redo head", "list, embed"):
        store.claim(settings_for(store), redo="head")
    assert names(store) == []


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
    store.abandon()
    assert names(store) == ["notes.txt"]


def test_abandon_frees_the_directory(store):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings, ["list"])
    store.abandon()
    assert names(store) == []
    assert store.claim(settings_for(store, clusters=3))


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"{", ["damaged"]),
        (b"\x00\xff", ["damaged"]),
        (b"", ["damaged", "NoneType"]),
        (b"settings: 3\n", ["no settings"]),
        (b"settings: {source: a, clusters: 3, out: b}\nversions: 7", ["versions = 7"]),
        (b"icce_ray: 9.9\nsettings: {source: a, clusters: 3, out: b, warp: 1}\n", ["icce-ray 9.9", "warp = 1"]),
        (b"a: &a [x, x]\nb: [*a, *a]\nsettings: {}", ["anchors"]),
        (b"settings: " + b"{a: " * 400, ["deep"]),
        (b"settings: {seed: " + b"9" * 5000 + b"}", ["50 digits"]),
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


# -- markers ---------------------------------------------------------------------------------------------------


def test_markers_round_trip(store):
    files = [store.storage.describe(name) for name in ("heads/b.bin", "heads/a.bin") if _write(store, name)]
    assert store.marker("heads") is None
    written = store.commit("heads", iter(files), fingerprint="f0", summary={"best_head": 3}, seconds=1.23456)
    found = store.require("heads")
    assert found == written
    assert [info.path for info in found.files] == ["heads/a.bin", "heads/b.bin"]
    assert (found.fingerprint, found.summary, found.seconds) == ("f0", {"best_head": 3}, 1.235)
    with fails(RunError, "stage embed", "features/_manifest.json", "icce run"):
        store.require("embed")


def _write(store, name):
    store.storage.write_bytes(name, name.encode())
    return True


INFO = {"path": "heads/a.bin", "rows": None, "bytes": 1, "sha256": "x"}
MARKED = {"stage": "heads", "fingerprint": "f", "files": [INFO], "summary": {}, "seconds": 1.0}
MARKED |= {"finished": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "not JSON"),
        (b"[1]", "list"),
        (b"{}", "stage is missing"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"stage": 1, "stage": 2}', "twice"),
        (MARKED | {"colour": 1}, "colour = 1"),
        (MARKED | {"stage": "head"}, "'head'"),
        (MARKED | {"summary": None}, "summary = None"),
        (MARKED | {"files": None}, "files = None"),
        (MARKED | {"files": [INFO | {"path": "../a"}]}, "files.0"),
        (MARKED | {"files": [INFO | {"bytes": -1}]}, "files.0"),
        (MARKED | {"files": [INFO | {"rows": 2**62}]}, "files.0"),
        (MARKED | {"files": [INFO | {"path": "heads/a.parquet"}]}, "has rows"),
        (MARKED | {"seconds": -1}, "seconds = -1"),
        (MARKED | {"finished": "2026-01-01T00:00:00"}, "zone"),
        (MARKED | {"finished": "yesterday"}, "finished = 'yesterday'"),
        (MARKED | {"summary": {"heads": "many"}}, "heads = 'many'"),
        (MARKED | {"summary": {"alarms": [7]}}, "alarms.0 = 7"),
        (MARKED | {"stage": "embed", "summary": {"rejected_by_reason": [1]}}, "rejected_by_reason = [1]"),
        (MARKED | {"stage": "list", "summary": {"source": {"format": "zip"}}}, "source.format = 'zip'"),
    ],
)
def test_a_damaged_marker_names_its_file_and_the_way_out(store, content, fact):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    store.storage.write_bytes(f"heads/{MARKER}", data)
    with fails(RunError, store.storage.uri(f"heads/{MARKER}"), fact, "--redo heads") as caught:
        store.marker("heads")
    assert len(str(caught.value)) < 600


def test_a_marker_of_a_version_without_checksums_is_read(store):
    store.storage.write_bytes(f"heads/{MARKER}", json.dumps(MARKED).encode())
    assert store.require("heads").files[0].bytes == 1


def test_a_figure_that_a_marker_lacks_is_an_error_of_the_run(store):
    summary = (
        store.commit("heads", [], fingerprint="f", summary={"heads": 3}, seconds=0) and store.require("heads").summary
    )
    assert (summary["heads"], summary | {"more": 1}) == (3, {"heads": 3, "more": 1})
    with fails(RunError, "'best_head'", "icce verify", "--redo"):
        summary["best_head"]


@pytest.mark.parametrize(
    ("seal", "opened"), [(sealed_json, opened_json), (sealed_yaml, partial(opened_yaml, strict=True))]
)
def test_a_file_with_its_own_checksum_shows_every_flipped_byte(seal, opened):
    content = {"name": "Grüße", "of": {"version": "1.7"}}
    data = seal(content)
    assert opened(data) == content
    for place in range(len(data)):
        for bit in range(8):
            changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            with suppress(DocumentError):
                assert set(opened(changed)) != set(content), (place, bit)
    for content_of_old in (b"{}", b'{"a": 1}'):
        assert opened(content_of_old) in ({}, {"a": 1})


def test_names_that_are_not_utf8_survive_in_figures(store):
    store.record("embed", {"first_rejects": [{"uri": "caf\udce9", "reason": "r", "detail": None}]})
    assert store.metrics()["embed"]["first_rejects"][0]["uri"] == "caf\udce9"


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


def test_of_a_prediction_another_place_is_the_remedy(store):
    store.claim_prediction({"run": "/runs/a", "classifier": "c0", "source": "new"})
    assert "--out" in store.remedy("predictions/part-000000.parquet")


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
    assert deleted == [f"predictions/{MARKER}", f"classifier/{MARKER}", "predictions", "classifier"]


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


# -- fingerprints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"source": "other"}, "list"),
        ({"embed": {"resize": "crop"}}, "embed"),
        ({"neighbors": {"k_min": 20}}, "neighbors"),
        ({"clusters": 11}, "neighbors"),
        ({"seed": 1}, "heads"),
        ({"heads": {"beta": 0.7}}, "heads"),
        ({"consensus": {"methods": ["mcla"]}}, "consensus"),
        ({"classifier": {"holdout": 0.2}}, "classifier"),
        ({"out": "elsewhere"}, None),
        ({"resources": {"device": "cpu"}}, None),
        ({"tracking": {"to": "none"}}, None),
        ({"embed": {"reject_budget": 0.5}}, None),
    ],
)
def test_a_change_shows_from_the_first_stage_it_touches_on(store, change, first):
    before, after = settings_for(store), settings_for(store, **change)
    different = [stage for stage in STAGES if fingerprint(before, stage) != fingerprint(after, stage)]
    assert different == (STAGES[STAGES.index(first) :] if first else [])


def test_fingerprints_differ_between_stages_and_know_the_stages(store):
    settings = settings_for(store)
    assert len({fingerprint(settings, stage) for stage in STAGES}) == len(STAGES)
    with fails(ValueError, "'head'", "list, embed"):
        fingerprint(settings, "head")


# -- figures and predictions -----------------------------------------------------------------------------------


def test_metrics_are_recorded_section_by_section(store):
    assert store.metrics() == {}
    store.record("embed", {"ok": 3, "name": "Grüße"})
    store.record("heads", {"best_head": 1})
    store.record("embed", {"ok": 4})
    assert store.metrics() == {"embed": {"ok": 4}, "heads": {"best_head": 1}}
    assert json.loads(store.storage.read_bytes("metrics.json")).items() > store.metrics().items()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"{", "not JSON"),
        (b"[]", "list"),
        (b'{"embed": 3}', "3"),
        (b'{"demo": 3}', "demo"),
        (b'{"evaluation": {"consensus": {"acc": "x", "nmi": 1, "ari": 1, "images": 1}}}', "consensus.acc = 'x'"),
        (b'{"evaluation": {"confused": 3}}', "confused = 3"),
    ],
)
def test_damaged_metrics_are_an_error_of_the_run(store, content, fact):
    store.storage.write_bytes("metrics.json", content)
    for call in (store.metrics, lambda: store.record("heads", {})):
        with fails(RunError, "metrics.json", fact, "delete it"):
            call()


def test_predictions_are_bound_to_their_source_and_classifier(store):
    purpose = {"run": "/runs/a", "classifier": "c0", "source": "new"}
    store.claim_prediction(purpose)
    store.claim_prediction(purpose)
    with fails(RunError, "classifier: 'c0' there, 'c1' now", "--out"):
        store.claim_prediction(purpose | {"classifier": "c1"})
    assert store.prediction_file() == purpose


@pytest.mark.parametrize("content", [b"run: [", b"7", b"run: a", b"{run: 1, classifier: c, source: a}"])
def test_a_damaged_prediction_file_is_an_error_of_the_run(store, content):
    store.storage.write_bytes("prediction.yaml", content)
    with fails(RunError, "prediction.yaml", "--out"):
        store.prediction_file()


def test_a_checkpoint_lives_until_the_marker_stands(tmp_path):
    store = Store(str(tmp_path))
    path = checkpoint_of("heads")
    store.storage.write_bytes(path, b"x")
    store.commit("neighbors", [], fingerprint="f", summary={}, seconds=0)
    assert store.storage.exists(path)
    store.commit("heads", [], fingerprint="f", summary={}, seconds=0)
    assert not store.storage.exists(path)
