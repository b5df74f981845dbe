"""One local Ray cluster for all integration tests, small digits as PNG files, and one finished run to read or copy."""

import logging
import os
import shutil

import numpy as np
import pytest
import ray
from PIL import Image
from sklearn.datasets import load_digits

from icce_ray import pipeline
from icce_ray.settings import load
from icce_ray.stages.cluster import QUIET
from icce_ray.store import Store
from tests.servers.s3 import aws_environment

from .drivers import end

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
}
SLOW_IMAGES = 160
# Stages long enough to be killed in: many small shards, large pictures, a checkpoint every epoch.
SLOW = {
    "embed": {"image_size": 384, "rows_per_shard": 8},
    "neighbors": {"rows_per_shard": 3},
    "heads": {"epochs": 120, "batch_size": 32, "checkpoint_epochs": 1},
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


@pytest.fixture(scope="package", autouse=True)
def cluster():
    """Ray for this package: more logical CPUs than the machine has, since Ray's helpers hold fractions of them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ |= {"RAY_prestart_worker_first_driver": "0"}  # else six workers start at once on two cores
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    with aws_environment():  # Ray's workers take the environment of now: servers that tests start later have these keys
        ray.init(address="local", num_cpus=6, num_gpus=0, object_store_memory=250 * 2**20, **options)
        yield
        ray.shutdown()


@pytest.fixture(scope="package")
def digits(tmp_path_factory):
    """(folder of digits, CSV file of their classes)."""
    folder = tmp_path_factory.mktemp("digits")
    truth = write_digits(folder / "images", IMAGES)
    rows = [f"{index:04d}.png,{label}" for index, label in enumerate(truth)]
    (folder / "labels.csv").write_text("\n".join(["uri,label", *rows]) + "\n")
    return folder / "images", folder / "labels.csv"


@pytest.fixture(scope="package")
def finished(cluster, digits, tmp_path_factory):
    """A complete run. Read it; change only a `copy` of it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    pipeline.run(tiny(digits[0], out), verbose=False)
    return Store(str(out))


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run as a test's own."""
    shutil.copytree(finished.root, tmp_path / "run")
    return Store(str(tmp_path / "run"))


@pytest.fixture(scope="package")
def slow_source(tmp_path_factory):
    """Folder of the images of runs that are killed."""
    folder = tmp_path_factory.mktemp("slow") / "images"
    write_digits(folder, SLOW_IMAGES)
    return folder


@pytest.fixture(scope="package")
def unbroken(cluster, slow_source, tmp_path_factory):
    """The same run, which nobody disturbed."""
    settings = tiny(slow_source, tmp_path_factory.mktemp("unbroken") / "run", **SLOW)
    pipeline.run(settings, verbose=False)
    return Store(settings.out)


@pytest.fixture
def agents():
    """Processes that a test must not leave behind."""
    found = {}
    yield found
    end(found)
