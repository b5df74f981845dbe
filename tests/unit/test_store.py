"""The run on storage: one directory never serves two runs, nothing but a run's own files is ever deleted."""

import json

import pytest
import yaml

from icce_ray.adapters.storage import Storage
from icce_ray.settings import load
from icce_ray.store import ARTIFACTS, FURTHER_ARTIFACTS, MARKER, RUN_FILE, RunError, Store, checkpoint_of, fingerprint

STAGES = list(ARTIFACTS)


def settings_for(store, *overrides, **values):
    return load({"source": "photos", "clusters": 10, "out": store.root} | values, overrides=list(overrides))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def complete(store, settings, stages=STAGES):
    """Every stage with one file and its marker."""
    for stage in stages:
        for artifact in (ARTIFACTS[stage], *FURTHER_ARTIFACTS.get(stage, ())):
            store.storage.write_bytes(f"{artifact}/data.bin", stage.encode())
        info = store.storage.describe(f"{ARTIFACTS[stage]}/data.bin")
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
    assert content["fingerprints"] == {stage: fingerprint(settings, stage) for stage in ARTIFACTS}
    assert {"python", "ray", "torch", "mtkahypar"} <= set(content["versions"])


def test_other_settings_are_refused_by_name(store):
    store.claim(settings_for(store))
    before = store.storage.read_bytes(RUN_FILE)
    with pytest.raises(RunError) as caught:
        store.claim(settings_for(store, "heads.beta=0.7", clusters=12))
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  clusters: 10 in the run, 12 now", "  heads.beta: 0.6 in the run, 0.7 now"]
    assert len(lines) == 4
    assert "give another --out" in lines[3]
    assert "--redo STAGE" in lines[3]
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
    assert [stage for stage in ARTIFACTS if store.marker(stage)] == STAGES[: STAGES.index("consensus")]
    assert store.settings() == changed


def test_redo_keeps_what_earlier_stages_depend_on(store):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings)
    before = names(store)
    with pytest.raises(RunError, match=r"neighbors\.k_min: 50 in the run, 20 now"):
        store.claim(settings_for(store, "neighbors.k_min=20"), redo="heads")
    with pytest.raises(RunError, match="clusters: 10 in the run, 12 now"):  # the neighbours' k_max hangs on it
        store.claim(settings_for(store, clusters=12), redo="heads")
    with pytest.raises(RunError, match=r"--redo head: there is no such stage; stages are list, embed"):
        store.claim(settings, redo="head")
    assert names(store) == before
    assert not store.claim(settings_for(store, clusters=12), redo="neighbors")


def test_an_unknown_stage_to_redo_claims_nothing(store):
    with pytest.raises(RunError, match="there is no such stage"):
        store.claim(settings_for(store), redo="head")
    assert names(store) == []


@pytest.mark.parametrize("taken", ["features/mine.txt", "head_labels/deep/mine.txt", "heads", "manifest"])
def test_somebodys_data_is_never_touched(store, taken):
    store.storage.write_bytes(taken, b"mine")
    with pytest.raises(
        RunError, match=rf"holds {taken.split('/')[0]}, which a run would write to; give an empty --out"
    ):
        store.claim(settings_for(store))
    with pytest.raises(RunError, match="give an empty --out"):
        store.claim(settings_for(store), redo="embed")
    with pytest.raises(RunError, match="give an empty --out"):
        store.claim_prediction({"source": "photos"})
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
    ("content", "says"),
    [
        (b"{", "is damaged"),
        (b"\x00\xff", "is damaged"),
        (b"", "holds no settings"),
        (b"settings: 3\n", "holds no settings"),
        (b"icce_ray: 9.9\nsettings: {source: a, clusters: 3, out: b, warp: 1}\n", "of icce-ray 9.9,"),
    ],
)
def test_a_run_file_that_cannot_be_used_is_an_error_of_the_run(store, content, says):
    store.storage.write_bytes(RUN_FILE, content)
    with pytest.raises(RunError, match=says):
        store.claim(settings_for(store))
    with pytest.raises(RunError, match="give another --out"):
        store.settings()


def test_what_is_no_run_says_so(store):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.yaml; `icce run` makes one"):
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
    assert [info.path for info in found.rows_of("heads/b")] == ["heads/b.bin"]
    with pytest.raises(RunError, match=r"stage embed of .* is not complete: features/_manifest.json is missing"):
        store.require("embed")


def _write(store, name):
    store.storage.write_bytes(name, name.encode())
    return True


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"files": [], "colour": 1}', b"\xff"])
def test_a_damaged_marker_names_its_file_and_the_way_out(store, content):
    store.storage.write_bytes(f"heads/{MARKER}", content)
    with pytest.raises(RunError, match=r"heads/_manifest\.json is damaged or of another version .*--redo heads"):
        store.marker("heads")


@pytest.mark.parametrize("stage", STAGES)
def test_discard_deletes_from_its_stage_on_and_nothing_else(store, stage):
    settings = settings_for(store)
    store.claim(settings)
    complete(store, settings)
    kept = STAGES[: STAGES.index(stage)]
    store.discard_from(stage)
    left = {artifact for one in kept for artifact in (ARTIFACTS[one], *FURTHER_ARTIFACTS.get(one, ()))}
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
    for name in (Store.part("neighbors", 0), Store.part("neighbors", 12), "neighbors/other.parquet", "neighbors/x"):
        _write(store, name)
    assert Store.part("neighbors", 12) == "neighbors/part-000012.parquet"
    assert store.parts("neighbors") == {0, 12}
    assert store.parts("features") == set()


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
    with pytest.raises(ValueError, match="unknown stage 'head'; stages are list"):
        fingerprint(settings, "head")


# -- figures and predictions -----------------------------------------------------------------------------------


def test_metrics_are_recorded_section_by_section(store):
    assert store.metrics() == {}
    store.record("embed", {"ok": 3, "name": "Grüße"})
    store.record("heads", {"best_head": 1})
    store.record("embed", {"ok": 4})
    assert store.metrics() == {"embed": {"ok": 4}, "heads": {"best_head": 1}}
    assert json.loads(store.storage.read_bytes("metrics.json")) == store.metrics()


def test_predictions_are_bound_to_their_source_and_classifier(store):
    purpose = {"run": "/runs/a", "classifier": "c0", "source": "new"}
    store.claim_prediction(purpose)
    store.claim_prediction(purpose)
    with pytest.raises(RunError, match=r"holds other predictions:\n  classifier: 'c0' there, 'c1' now\ngive another"):
        store.claim_prediction(purpose | {"classifier": "c1"})
    assert yaml.safe_load(store.storage.read_bytes("prediction.yaml")) == purpose


def test_a_checkpoint_lives_until_the_marker_stands(tmp_path):
    store = Store(str(tmp_path))
    path = checkpoint_of("heads")
    store.storage.write_bytes(path, b"x")
    store.commit("neighbors", [], fingerprint="f", summary={}, seconds=0)
    assert store.storage.exists(path)
    store.commit("heads", [], fingerprint="f", summary={}, seconds=0)
    assert not store.storage.exists(path)
