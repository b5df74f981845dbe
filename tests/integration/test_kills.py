"""Drivers killed at the start, in the middle and at the end of every stage, and Ray's own processes one of each kind.

The same command finishes the run, and the result does not show it.
"""

import os
import signal
import threading
from pathlib import Path

import pytest
from safetensors import safe_open

from icce_ray import pipeline
from icce_ray.adapters.tracking import read_lines
from icce_ray.store import ARTIFACTS, Store, checkpoint_of

from .conftest import SLOW, SLOW_IMAGES, tiny
from .drivers import Driver, assert_as_if_unbroken, descendants, name_of, rows, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")

OK = "features/status=ok"
IMAGES, ROWS = SLOW_IMAGES, SLOW["embed"]["rows_per_shard"]
KEPT = ("manifest", "features", "neighbors", "predictions")


def epoch_of(store, folder):
    """Epoch of the heads' checkpoint, 0 if there is none."""
    try:
        data = store.storage.read_bytes(checkpoint_of("heads"))
    except FileNotFoundError:
        return 0
    (folder / "checkpoint").write_bytes(data)
    with safe_open(folder / "checkpoint", "pt") as file:
        return int(file.get_tensor("epoch"))


def points(store, folder):
    """(what, whether it has happened) at the start, in the middle and at the end of each stage, in their order."""
    shards = -(-IMAGES // ROWS)

    def marked(stage):
        return lambda: store.storage.exists(f"{ARTIFACTS[stage]}/_manifest.json")

    def has(artifact, count):
        return lambda: len(store.parts(artifact)) >= count

    return [
        ("list, middle", has("manifest", 3)),
        ("embed, start", marked("list")),
        ("embed, middle", has(OK, 3)),
        ("embed, end", has(OK, shards)),
        ("sample, start", marked("embed")),
        ("neighbors, start", marked("sample")),
        ("neighbors, middle", has("neighbors", 9)),
        ("neighbors, end", has("neighbors", -(-IMAGES // 3))),
        ("heads, start", marked("neighbors")),
        ("heads, middle", lambda: epoch_of(store, folder) >= 10),
        ("heads, end", has("head_labels", 2)),
        ("consensus, start", marked("heads")),
        ("consensus, middle", lambda: bool(store.storage.list("consensus/candidates"))),
        ("consensus, end", has("consensus", 2)),
        ("classifier, start", marked("consensus")),
        ("classifier, end", lambda: store.storage.exists("classifier/classifier.safetensors")),
        ("predict, start", marked("classifier")),
        ("predict, middle", has("predictions", 2)),
        ("predict, end", has("predictions", shards)),
    ]


def stamps(store):
    """Every shard that must stay as it is, with its time of writing; an unfinished listing begins again."""
    kept = KEPT if store.marker("list") else KEPT[1:]
    paths = [store.storage.full_path(name) for part in kept for name, _ in store.storage.list(part) if "/part-" in name]
    return {info.path: info.mtime_ns for info in store.storage.filesystem.get_file_info(paths)} if paths else {}


def kill_at_every_point(settings, folder, agents, poll=0.004, only=""):
    """Kill one driver after another; the points at which it was one's turn to die. `only`: those that end so."""
    store, reached, kept = Store(settings.out), [], {}
    for what, happened in points(store, folder):
        if not what.endswith(only):
            continue
        if happened():  # the driver before got further than where it should have died
            continue
        if Driver(settings, folder, agents).kill_when(happened, what, poll):
            reached.append(what)
        now = stamps(store)
        changed = {path for path, stamp in kept.items() if now.get(path) != stamp}
        assert not changed, f"written again, though finished before {what}: {changed}"
        kept = now
    Driver(settings, folder, agents).finish()
    return reached


def assert_every_stage_was_hit(reached):
    assert len(reached) >= 12, reached
    assert {what.split(",")[0] for what in reached} == set(ARTIFACTS), reached


def test_a_run_killed_at_every_point(slow_source, unbroken, tmp_path, agents):
    settings = tiny(slow_source, tmp_path / "run", **SLOW)
    assert_every_stage_was_hit(kill_at_every_point(settings, tmp_path, agents))
    assert_as_if_unbroken(Store(settings.out), unbroken, IMAGES)
    assert "images were done before" in (tmp_path / "log.txt").read_text()
    lines = read_lines(Store(settings.out).storage, "metrics.jsonl")
    told = [line.step for line in lines if (line.stage, line.event) == ("heads", "step")]
    assert sorted(told) == list(range(1, settings.heads.epochs + 1)), "every epoch is tracked, none twice"
    assert [line.stage for line in lines if line.event == "summary"] == list(ARTIFACTS)
    assert not list(Path(settings.out).rglob("*.tmp"))


def test_killed_workers_are_replaced(slow_source, unbroken, tmp_path):
    """A task's worker, an embedding actor, a shard of the index, the training worker: one of each, while it works."""
    settings, store = tiny(slow_source, tmp_path / "run", **SLOW), Store(str(tmp_path / "run"))
    killed = []

    def kill(name, condition, what):
        wait_for(condition, what)
        victims = []
        wait_for(
            lambda: (
                victims.extend(
                    pid for pid in descendants(os.getpid()) if name_of(pid).startswith("ray::") and name in name_of(pid)
                )
                or victims
            ),
            f"a process {name}",
        )
        os.kill(victims[0], signal.SIGKILL)
        killed.append(name)

    def kill_one_of_each():
        # Reading first: it runs ahead, and while a new actor starts it may end.
        kill("_read_chunk", lambda: store.storage.exists("manifest/_manifest.json"), "the end of the listing")
        kill("_Embedder", lambda: store.parts(OK), "the first shard of features")
        kill("Shard", lambda: store.parts("neighbors"), "the first shard of neighbours")
        kill("TrainWorker", lambda: store.storage.exists(checkpoint_of("heads")), "the first checkpoint")

    killer = threading.Thread(target=kill_one_of_each)
    killer.start()
    pipeline.run(settings, verbose=False)
    killer.join()
    assert killed == ["_read_chunk", "_Embedder", "Shard", "TrainWorker"]
    assert rows(store, OK) == rows(unbroken, OK)
    assert_as_if_unbroken(store, unbroken, IMAGES)
