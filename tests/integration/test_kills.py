"""Drivers killed with -9 at named points of every stage, on a local disk and in a bucket, and Ray's own processes.

The same command finishes the run, and the result does not show it.
"""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icce_ray import pipeline
from icce_ray.adapters.tracking import read_lines
from icce_ray.store import ARTIFACTS, MARKER, Store, checkpoint_of
from tests.barriers import barrier
from tests.processes import descendants, name_of
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY

from .conftest import IMAGES, SHARDED, tiny
from .drivers import Driver, assert_as_if_unbroken, run_command, shared_cluster

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
    "heads": {"start": (CHECKPOINT, 0), "middle": (CHECKPOINT, 4), "labels": ("head_labels/part-*", 2)},
    "consensus": {"middle": ("consensus/candidates/*.json", 1), "labels": ("consensus/part-*", 2)},
    "classifier": {"middle": ("classifier/grid.parquet", 0)},
    "predict": {"start": ("predictions/part-*", 0), "middle": ("predictions/part-*", 5)},
}
EVERY = [(stage, point) for stage, points in POINTS.items() for point in (*points, "end")]
KEPT = ("manifest", "features", "neighbors", "predictions")


def at(store, stage, point):
    glob, passes = POINTS[stage].get(point, (f"{ARTIFACTS[stage]}/{MARKER}", 0))
    return barrier(store, glob, passes=passes)


def stamps(store):
    """Every shard that must stay as it is, with its time of writing; an unfinished listing begins again."""
    kept = KEPT if store.marker("list") else KEPT[1:]
    paths = [store.storage.full_path(name) for part in kept for name, _ in store.storage.list(part) if "/part-" in name]
    return {info.path: info.mtime_ns for info in store.storage.filesystem.get_file_info(paths)} if paths else {}


@pytest.fixture
def place(request, digits, tmp_path):
    """(source, run) on a local disk or in a bucket of Ceph's gateway."""
    if request.param == "local":
        return str(digits[0]), str(tmp_path / "run")
    server = request.getfixturevalue("radosgw")
    bucket = server.filled(digits[0])
    return server.uri(f"{bucket}/in"), server.uri(f"{bucket}/run")


@pytest.mark.parametrize(
    ("place", "points", "alone"),
    [
        pytest.param("local", [("embed", "middle"), ("consensus", "middle")], 0, id="local"),
        pytest.param("s3", [("heads", "middle")], None, id="s3"),
        pytest.param("local", EVERY, None, id="local, every point", marks=pytest.mark.slow(300)),
        pytest.param("s3", EVERY, None, id="s3, every point", marks=pytest.mark.slow(400)),
    ],
    indirect=["place"],
)
def test_a_killed_run_goes_on(place, points, alone, finished, tmp_path, agents):
    """One driver after the other is killed; the one of the number `alone` has a Ray of its own, as on a laptop."""
    settings = tiny(*place, **SHARDED)
    store, kept, command = Store(settings.out), {}, run_command(settings, tmp_path)
    for number, (stage, point) in enumerate(points):
        with at(store, stage, point) as held:
            Driver(command, tmp_path, agents, None if number == alone else shared_cluster()).kill_at(held)
        now = stamps(store)
        changed = {path for path, stamp in kept.items() if now.get(path) != stamp}
        assert not changed, f"written again, though finished before {stage}, {point}: {changed}"
        assert store.marker(stage) is None
        kept = now
    pipeline.run(settings, verbose=False)
    assert_as_if_unbroken(store, finished, IMAGES)
    lines = read_lines(store.storage, "metrics.jsonl")
    told = [line.step for line in lines if (line.stage, line.event) == ("heads", "step")]
    assert sorted(told) == list(range(1, settings.heads.epochs + 1)), "every epoch is tracked, none twice"
    assert [line.stage for line in lines if line.event == "summary"] == list(ARTIFACTS)
    names = [name for name, _ in store.storage.list()]
    assert "run.yaml" in names
    assert not [name for name in names if name.endswith(".tmp") or name == "lock.json"]
    assert_no_secret(store, names, (tmp_path / "log.txt").read_bytes())


def assert_no_secret(store, names, *texts):
    """Neither key in anything that the run has written, in any file's plain bytes or table."""
    for text in [*texts, *(store.storage.read_bytes(name) for name in names)]:
        assert ACCESS_KEY.encode() not in text
        assert SECRET_KEY.encode() not in text
    for name in names:
        if name.endswith(".parquet"):
            assert SECRET_KEY not in str(store.storage.read_table(name).to_pylist())


def test_killed_workers_are_replaced(digits, finished, tmp_path):
    """The worker of a task, an embedding actor, a shard of the index, the training worker: each in the middle."""
    settings = tiny(digits[0], tmp_path / "run", **SHARDED)
    store, killed = Store(settings.out), []

    def kill(pid):
        killed.append(re.match(r"[\w:.]+", name_of(pid))[0])
        os.kill(pid, signal.SIGKILL)

    def one(name):
        return next(pid for pid in descendants(os.getpid()) if name_of(pid).startswith(name))

    with (
        ThreadPoolExecutor(1) as pool,
        barrier(store, "manifest/part-*", passes=5, operation="get") as reading,
        barrier(store, "neighbors/part-*", passes=5) as mining,
        barrier(store, CHECKPOINT, passes=4) as training,
    ):
        running = pool.submit(pipeline.run, settings, verbose=False)

        def check():
            assert not running.done(), running.result()

        # What was not read yet needs another actor; of the two processes killed here the first was reading.
        kill(reading.reached(check))
        kill(one("ray::MapWorker"))
        reading.release()
        mining.reached(check)
        kill(one("ray::Shard"))
        mining.release()
        kill(training.reached(check))
        training.release()
        running.result()
    assert killed == ["ray::MapBatches", "ray::MapWorker", "ray::Shard.search", "ray::RayTrainWorker"]
    assert_as_if_unbroken(store, finished, IMAGES)
