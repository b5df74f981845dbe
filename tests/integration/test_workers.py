"""Heads trained by two workers of Ray Train: the result of one, and of two that were not killed."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from icce_ray import pipeline
from icce_ray.store import Store
from icce_ray.store.artifacts import checkpoint_of
from tests.barriers import barrier
from tests.processes import descendants, name_of, wait_for

from .conftest import tiny, without_heads
from .drivers import Driver, rows, run_command, shared_cluster

CHECKPOINT = checkpoint_of("heads")


def trained(finished, out, parallelism):
    """The finished run with its heads trained again, by two workers."""
    shutil.copytree(finished.root, out)
    resources = {"head_workers": 2, "parallelism": parallelism}
    settings = tiny(finished.settings().source, out, resources=resources)
    pipeline.run(settings, redo="heads", last="heads", verbose=False)
    return Store(str(out))


def labels(store):
    return np.array([row["labels"] for row in rows(store, "head_labels")])


def table(store):
    return store.storage.read_table("heads/losses.parquet")


@pytest.mark.slow(20)
@pytest.mark.parametrize("parallelism", ["heads", "data"])
def test_two_workers_find_what_one_finds(finished, tmp_path, parallelism):
    """Sums over two workers are rounded otherwise than in one process: an image between two clusters may change.

    Settings where nothing is rounded otherwise do not exist: in `heads` w(x, x') is summed over heads in another
    order, in `data` every gradient over pairs. The numerics tests hold each step to 1e-5.
    """
    store = trained(finished, tmp_path / "run", parallelism)
    for name in ("epoch", "head"):
        assert table(store)[name].equals(table(finished)[name])
    for name in ("temi", "cross_entropy"):
        np.testing.assert_allclose(table(store)[name], table(finished)[name], rtol=1e-3, atol=1e-4)
    assert (labels(store) == labels(finished)).mean() > 0.995
    one, two = (run.storage.read_tensors("heads/heads.safetensors") for run in (finished, store))
    assert {name: tensor.shape for name, tensor in two.items()} == {name: tensor.shape for name, tensor in one.items()}
    for kept in ("image_id", "key"):
        assert [row[kept] for row in rows(store, "head_labels")] == [row[kept] for row in rows(finished, "head_labels")]


@pytest.mark.slow(60)
@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_a_worker_is_killed_and_then_the_driver(digits, finished, tmp_path, ends):
    """Both workers begin again at the last checkpoint; to the bit, as two give the same sums in any attempt."""
    two = {"resources": {"head_workers": 2}}
    whole, broken = (without_heads(finished, tmp_path / name) for name in ("whole", "broken"))
    with barrier(broken, CHECKPOINT, passes=1) as first:
        driver = Driver(run_command(tiny(digits[0], broken.root, **two), tmp_path), tmp_path, ends, shared_cluster())
        writer = first.reached(driver.check)

        def the_other():
            found = {pid for pid in descendants(os.getpid()) if "RayTrainWorker" in name_of(pid)} - {writer}
            return found if len(found) == 1 else None  # of an earlier test one may still be ending

        (other,) = wait_for(the_other, "a single other worker")
        os.kill(other, signal.SIGKILL)
        with barrier(broken, CHECKPOINT) as next_one:
            first.release()
            driver.kill_at(next_one)
    for store in (broken, whole):
        pipeline.run(tiny(digits[0], store.root, **two), last="heads", verbose=False)
    assert rows(broken, "head_labels") == rows(whole, "head_labels")
    assert table(broken).equals(table(whole))
