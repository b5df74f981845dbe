"""Heads trained by two workers of Ray Train: the result of one, and of two that were not killed."""

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from icce_ray import pipeline
from icce_ray.adapters.weights import load_tensors
from icce_ray.store import Store, checkpoint_of

from .conftest import tiny
from .drivers import descendants, name_of, rows, wait_for

#: Long enough to be killed in.
LONG = {"epochs": 60, "checkpoint_epochs": 1, "batch_size": 32}


def trained(finished, out, parallelism, **changes):
    """The finished run with its heads trained again, by two workers."""
    shutil.copytree(finished.root, out)
    resources = {"head_workers": 2, "parallelism": parallelism}
    settings = tiny(finished.settings().source, out, resources=resources, **changes)
    pipeline.run(settings, redo="heads", last="heads", verbose=False)
    return Store(str(out))


def labels(store):
    return np.array([row["labels"] for row in rows(store, "head_labels")])


def table(store):
    return store.storage.read_table("heads/losses.parquet")


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
    one, two = (load_tensors(run.storage, "heads/heads.safetensors") for run in (finished, store))
    assert {name: tensor.shape for name, tensor in two.items()} == {name: tensor.shape for name, tensor in one.items()}
    for kept in ("image_id", "key"):
        assert [row[kept] for row in rows(store, "head_labels")] == [row[kept] for row in rows(finished, "head_labels")]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_one_of_two_workers_is_killed(finished, tmp_path):
    """Both begin again at the last checkpoint; to the bit, as two workers give the same sums in any attempt."""
    store, killed = Store(str(tmp_path / "run")), []

    def kill():
        wait_for(lambda: store.storage.exists(checkpoint_of("heads")), "the first checkpoint")
        workers = [pid for pid in descendants(os.getpid()) if "RayTrainWorker" in name_of(pid)]
        assert len(workers) == 2
        os.kill(max(workers), signal.SIGKILL)
        killed.append(load_tensors(store.storage, checkpoint_of("heads"))["epoch"].item())

    killer = threading.Thread(target=kill)
    killer.start()
    trained(finished, tmp_path / "run", "heads", heads=LONG)
    killer.join()
    assert len(killed) == 1
    assert killed[0] < LONG["epochs"]
    unbroken = trained(finished, tmp_path / "unbroken", "heads", heads=LONG)
    assert rows(store, "head_labels") == rows(unbroken, "head_labels")
    assert table(store).equals(table(unbroken))
