"""The stream from images to shards on Ray: whole and in order, whatever ends first and whoever is lost."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from icce_ray import pipeline
from icce_ray.stages.stream import BLOCK_ROWS
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES
from tests.barriers import barrier
from tests.processes import descendants, name_of, wait_for

from .conftest import tiny

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
