"""The stream from images to shards on Ray: whole and in order, whatever ends first and whoever is lost."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from icce_ray import pipeline
from icce_ray.io.sources import SourceError
from icce_ray.stages import listing
from icce_ray.stages.stream import BLOCK_ROWS
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES
from tests.barriers import barrier
from tests.processes import descendants, name_of, wait_for

from .conftest import tiny
from .drivers import stamps

ROWS, SHARD = 3000, 1300


def is_actor(pid):
    return name_of(pid).startswith("ray::MapWorker")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_shards_of_several_blocks_are_whole_and_in_order_when_a_task_and_an_actor_are_lost(tmp_path):
    values = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float16)
    np.save(tmp_path / "features.npy", values)
    settings = tiny(tmp_path / "features.npy", tmp_path / "run", embed={"rows_per_shard": SHARD})
    store = Store(settings.out)
    assert SHARD > 2 * BLOCK_ROWS
    with ThreadPoolExecutor(1) as pool, barrier(store, "manifest/part-*", passes=1, operation="get") as held:
        running = pool.submit(pipeline.run, settings, last="embed", verbose=False)
        task = held.reached(lambda: running.done() and running.result())
        actors = wait_for(lambda: [pid for pid in descendants(os.getpid()) if is_actor(pid)], "an actor")
        for pid in (task, *actors):
            os.kill(pid, signal.SIGKILL)
        held.release()
        running.result()
    shards = [store.storage.read_table(FEATURES.part(chunk)) for chunk in range(3)]
    assert [len(shard) for shard in shards] == [SHARD, SHARD, ROWS - 2 * SHARD]
    np.testing.assert_array_equal(np.concatenate([shard["features"].to_pylist() for shard in shards]), values)


def saved(folder, values):
    """Features in files of two rows."""
    folder.mkdir(exist_ok=True)
    for number in range(0, len(values), 2):
        np.save(folder / f"{number:02d}.npy", values[number : number + 2])


def test_shards_are_embedded_while_others_are_listed_and_stay_when_the_listing_begins_again(tmp_path, monkeypatch):
    """And what was embedded of a shard of which another image is listed then is made again."""
    values, source = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float16), tmp_path / "features"
    saved(source, values)
    settings = tiny(source, tmp_path / "run", embed={"rows_per_shard": 4})
    store, gate, whole = Store(settings.out), threading.Event(), listing._shards

    def broken(tables, rows):
        shards = list(whole(tables, rows))
        yield from shards[:2]
        gate.wait()
        raise SourceError("the bucket is gone")

    monkeypatch.setattr(pipeline, "LISTING_ALONE", 0.0)
    monkeypatch.setattr(listing, "_shards", broken)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipeline.run, settings, last="embed", verbose=False)
        wait_for(lambda: store.parts(FEATURES) == {0, 1} or running.done(), "shards of what is listed")
        assert store.marker("list") is None
        gate.set()
        with pytest.raises(SourceError, match="the bucket is gone"):
            running.result()
    assert store.marker("embed") is None
    monkeypatch.setattr(listing, "_shards", whole)
    kept, longer = stamps(store, FEATURES.part(0)), np.concatenate([values[:6], values[:1], values[6:]])
    saved(source, values[:4])
    np.save(source / "04.npy", longer[4:7])  # rows of the second shard and of the third are others
    pipeline.run(settings, last="embed", verbose=False)
    assert stamps(store, FEATURES.part(0)) == kept
    shards = [store.storage.read_table(FEATURES.part(chunk)) for chunk in range(3)]
    np.testing.assert_array_equal(np.concatenate([shard["features"].to_pylist() for shard in shards]), longer)
