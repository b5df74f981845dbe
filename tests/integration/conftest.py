"""Ray for every integration test, small digits as PNG files, and one finished run to read or copy."""

import fcntl
import os
import shutil
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from icce_ray import pipeline
from icce_ray.settings import load
from icce_ray.store import Store

IMAGES, CLUSTERS = 320, 10
TINY = {
    "clusters": CLUSTERS,
    "embed": {"backbone": "hog", "features": "hog", "rows_per_shard": 64},
    "neighbors": {"threshold": 0.65, "k_min": 8, "rows_per_shard": 100},
    "heads": {
        "heads": 5,
        "hidden": 32,
        "bottleneck": 16,
        "epochs": 12,
        "warmup_epochs": 2,
        "batch_size": 64,
        "learning_rate": 4e-3,
        "teacher_momentum": 0.9,
        "checkpoint_epochs": 5,
    },
    "classifier": {"iterations": 120, "batch_size": 64},
    "resources": {"embed_actors": 1},
}
#: The same run in more shards and with more checkpoints, so that it can be broken between two of them: the same labels.
SHARDED = {
    "embed": {"rows_per_shard": 16},
    "neighbors": {"rows_per_shard": 16},
    "heads": {"checkpoint_epochs": 1},
    "resources": {"embed_actors": 2},
}


def tiny(source, out, **changes):
    """The settings above for a source and a run, `embed={"rows_per_shard": 7}` changed field by field."""
    values = {key: value | changes.pop(key, {}) if isinstance(value, dict) else value for key, value in TINY.items()}
    return load(values | {"source": str(source), "out": str(out)} | changes)


def write_digits(folder, count, first=0):
    """`count` digits as PNG files NNNN.png below `folder`; returns their true classes."""
    digits = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        Image.fromarray((digits.images[index] * 15.9375).astype(np.uint8)).save(folder / f"{index:04d}.png")
    return digits.target[first : first + count]


@pytest.fixture(scope="session", autouse=True)
def on_the_cluster(cluster):
    """Every test here uses Ray."""


@pytest.fixture(scope="session")
def of_all(tmp_path_factory):
    """A folder that the processes of pytest-xdist share, for one of them at a time."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    folder = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent

    @contextmanager
    def locked():
        with (folder / "of_all.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    return locked


@pytest.fixture(scope="session")
def digits(of_all):
    """(folder of digits, CSV file of their classes)."""
    with of_all() as folder:
        if not (folder / "labels.csv").exists():
            truth = write_digits(folder / "digits", IMAGES)
            rows = [f"{index:04d}.png,{label}" for index, label in enumerate(truth)]
            (folder / "labels.csv").write_text("\n".join(["uri,label", *rows]) + "\n")
    return folder / "digits", folder / "labels.csv"


@pytest.fixture(scope="session")
def finished(cluster, digits, of_all):
    """A complete run. Read it; change only a `copy` of it."""
    with of_all() as folder:
        pipeline.run(tiny(digits[0], folder / "finished"), verbose=False)  # only the first process has work to do
    return Store(str(folder / "finished"))


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run as a test's own."""
    shutil.copytree(finished.root, tmp_path / "run")
    return Store(str(tmp_path / "run"))


def without_heads(run, out):
    """A copy of a run whose heads are still to be trained."""
    shutil.copytree(run.root, out)
    store = Store(str(out))
    store.discard_from("heads")
    return store


@pytest.fixture
def ends():
    """What a test must not leave running: callbacks that end it."""
    with ExitStack() as stack:
        yield stack
