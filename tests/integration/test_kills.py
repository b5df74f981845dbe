"""Drivers killed with -9 at named points of every stage, on a local disk and in a bucket.

The same command finishes the run, and the result does not show it.
"""

from pathlib import Path

import pytest

from icce_ray import pipeline
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, MARKER, STAGES, checkpoint_of
from icce_ray.store.verify import violations
from icce_ray.tracking import read_events
from tests.barriers import barrier

from .conftest import IMAGES, SHARDED, tiny, without_heads
from .drivers import Driver, assert_as_if_unbroken, assert_no_secret, rows, run_command, shared_cluster, stamps

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.faults,
]
OK = "features/status=ok"
CHECKPOINT = checkpoint_of("heads")
#: {stage: {point: (what is about to be written, how many of those were)}}; each stage also ends, before its marker.
POINTS = {
    "list": {"middle": ("manifest/part-*", 3)},
    "embed": {"start": (f"{OK}/part-*", 0), "middle": (f"{OK}/part-*", 5)},
    "sample": {},
    "neighbors": {"start": ("neighbors/part-*", 0), "middle": ("neighbors/part-*", 5)},
    "heads": {
        "start": (CHECKPOINT, 0),
        "late": (CHECKPOINT, 1),
        "middle": (CHECKPOINT, 4),
        "labels": ("head_labels/part-*", 2),
    },
    "consensus": {"middle": ("consensus/candidates/*.json", 1), "labels": ("consensus/part-*", 2)},
    "classifier": {"middle": ("classifier/grid.parquet", 0)},
    "predict": {"start": ("predictions/part-*", 0), "middle": ("predictions/part-*", 5)},
}
EVERY = [(stage, point) for stage, points in POINTS.items() for point in (*points, "end")]
KEPT = ("manifest", "features", "neighbors", "predictions")


def at(store, stage, point):
    glob, passes = POINTS[stage].get(point, (f"{STAGES[stage].folder}/{MARKER}", 0))
    return barrier(store, glob, passes=passes)


def finished_shards(store):
    """Every shard that must stay as it is, with its time of writing; an unfinished listing begins again."""
    kept = KEPT if store.marker("list") else KEPT[1:]
    return {name: time for name, time in stamps(store, *kept).items() if "/part-" in name}


@pytest.fixture
def settings(request, digits, finished, tmp_path):
    """Of a run on a local disk, or in a bucket, or of the finished one, whose heads are to be trained again."""
    if request.param == "copy":
        without_heads(finished, tmp_path / "run")
        return tiny(digits[0], tmp_path / "run")
    if request.param == "local":
        return tiny(digits[0], tmp_path / "run", **SHARDED)
    server = request.getfixturevalue("bucket_server")
    bucket = server.filled(digits[0])
    return tiny(server.uri(f"{bucket}/in"), server.uri(f"{bucket}/run"), **SHARDED)


def kill_at(points, settings, tmp_path, ends, **environment):
    """Kill one driver after the other; nothing that is finished is written again."""
    store, kept = Store(settings.out), {}
    for stage, point in points:
        with at(store, stage, point) as held:
            Driver(run_command(settings, tmp_path), tmp_path, ends, environment).kill_at(held)
        now = finished_shards(store)
        changed = {path for path, stamp in kept.items() if now.get(path) != stamp}
        assert not changed, f"written again, though finished before {stage}, {point}: {changed}"
        assert store.marker(stage) is None
        kept = now
    return store


def test_an_embedding_goes_on_after_the_end_of_its_driver_and_all_of_its_ray(digits, finished, tmp_path, ends):
    """As on a laptop, where the driver's Ray is its own."""
    settings = tiny(digits[0], tmp_path / "run", **SHARDED)
    store = kill_at([("embed", "middle")], settings, tmp_path, ends)
    assert len(store.parts(FEATURES)) == 5
    pipeline.run(settings, last="embed", verbose=False)
    assert rows(store, OK) == rows(finished, OK)
    assert list(violations(store)) == []


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        pytest.param("copy", [("heads", "late"), ("consensus", "middle")], id="copy"),
        pytest.param("local", EVERY, id="local", marks=pytest.mark.slow(300)),
        pytest.param("s3", EVERY, id="s3", marks=pytest.mark.slow(400)),
    ],
    indirect=["settings"],
)
def test_a_run_goes_on_after_every_point_of_a_kill(settings, points, finished, tmp_path, ends):
    store = kill_at(points, settings, tmp_path, ends, **shared_cluster())
    pipeline.run(settings, verbose=False)
    assert_as_if_unbroken(store, finished, IMAGES)
    lines = read_events(store.storage, "metrics.jsonl")
    tracked = [line.step for line in lines if (line.stage, line.event) == ("heads", "step")]
    assert sorted(tracked) == list(range(1, settings.heads.epochs + 1)), "every epoch is tracked, none twice"
    assert [line.stage for line in lines if line.event == "summary"] == list(STAGES)
    assert not [name for name, _ in store.storage.list() if name.endswith(".tmp") or name == "lock.json"]
    assert_no_secret(store, (tmp_path / "log.txt").read_bytes())
