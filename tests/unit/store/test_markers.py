"""Markers, fingerprints and figures: what says that a stage is complete, of which settings, and with which result."""

import json

import pytest

from icce_ray.settings import load
from icce_ray.store import RunError, Store, fingerprint
from icce_ray.store.artifacts import MARKER, checkpoint_of
from icce_ray.store.artifacts import STAGES as DECLARED
from tests.failures import fails

STAGES = list(DECLARED)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def settings_for(store, **values):
    return load({"source": "photos", "clusters": 10, "out": store.root} | values)


def test_markers_round_trip(store):
    names = ("heads/b.bin", "heads/a.bin")
    for name in names:
        store.storage.write_bytes(name, name.encode())
    files = [store.storage.describe(name) for name in names]
    assert store.marker("heads") is None
    written = store.commit("heads", iter(files), fingerprint="f0", summary={"best_head": 3}, seconds=1.23456)
    found = store.require("heads")
    assert found == written
    assert [info.path for info in found.files] == ["heads/a.bin", "heads/b.bin"]
    assert (found.fingerprint, found.summary, found.seconds) == ("f0", {"best_head": 3}, 1.235)
    with fails(RunError, "stage embed", "features/_manifest.json", "icce run"):
        store.require("embed")


INFO = {"path": "heads/a.bin", "rows": None, "bytes": 1, "sha256": "x"}
MARKED = {"stage": "heads", "fingerprint": "f", "files": [INFO], "summary": {}, "seconds": 1.0}
MARKED |= {"finished": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"\xff", "not JSON"),
        (b"[1]", "list"),
        (b"{}", "stage is missing"),
        (MARKED | {"colour": 1}, "colour = 1"),
        (MARKED | {"stage": "head"}, "stage head"),
        (MARKED | {"summary": None}, "summary = None"),
        (MARKED | {"files": [INFO | {"path": "../a"}]}, "files.0"),
        (MARKED | {"files": [INFO | {"bytes": -1}]}, "files.0"),
        (MARKED | {"files": [INFO | {"rows": 2**62}]}, "files.0"),
        (MARKED | {"files": [INFO | {"path": "heads/a.parquet"}]}, "has rows"),
        (MARKED | {"seconds": -1}, "seconds = -1"),
        (MARKED | {"finished": "2026-01-01T00:00:00"}, "zone"),
        (MARKED | {"summary": {"heads": "many"}}, "heads = 'many'"),
        (MARKED | {"summary": {"alarms": [7]}}, "alarms.0 = 7"),
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


def test_names_that_are_not_utf8_survive_in_figures(store):
    store.record("embed", {"first_rejects": [{"uri": "caf\udce9", "reason": "r", "detail": None}]})
    assert store.metrics()["embed"]["first_rejects"][0]["uri"] == "caf\udce9"


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"source": "other"}, "list"),
        ({"embed": {"resize": "crop"}}, "embed"),
        ({"embed": {"backbone": ["hog", "facebook/dinov2-base"]}}, "embed"),
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


def test_a_run_whose_pictures_were_squashed_by_default_goes_on(store):
    """0.1.0 wrote `squash` for what nobody gave; now it is the model's own way, the same of HOG."""
    before, today = settings_for(store, embed={"resize": "squash"}), settings_for(store)
    assert [fingerprint(before, stage) for stage in STAGES] == [fingerprint(today, stage) for stage in STAGES]
    other = ({"backbone": "openai/clip-vit-base-patch32", "resize": resize} for resize in (None, "squash"))
    assert len({fingerprint(settings_for(store, embed=one), "embed") for one in other}) == 2
    assert store.claim(before)
    assert store.as_begun(today).embed.resize == "squash"
    assert not store.claim(store.as_begun(today))
    with fails(RunError, "embed.resize: 'squash' in the run, 'crop' now"):
        store.claim(store.as_begun(settings_for(store, embed={"resize": "crop"})))


def test_fingerprints_differ_between_stages(store):
    settings = settings_for(store)
    assert len({fingerprint(settings, stage) for stage in STAGES}) == len(STAGES)


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
        (b'{"embed": 3}', "3"),
        (b'{"demo": 3}', "demo"),
        (b'{"evaluation": {"consensus": {"acc": "x", "nmi": 1, "ari": 1, "images": 1}}}', "consensus.acc = 'x'"),
    ],
)
def test_damaged_metrics_are_an_error_of_the_run(store, content, fact):
    store.storage.write_bytes("metrics.json", content)
    for call in (store.metrics, lambda: store.record("heads", {})):
        with fails(RunError, "metrics.json", fact, "delete it"):
            call()


def test_a_checkpoint_lives_until_the_marker_stands(tmp_path):
    store = Store(str(tmp_path))
    path = checkpoint_of("heads")
    store.storage.write_bytes(path, b"x")
    store.commit("neighbors", [], fingerprint="f", summary={}, seconds=0)
    assert store.storage.exists(path)
    store.commit("heads", [], fingerprint="f", summary={}, seconds=0)
    assert not store.storage.exists(path)
