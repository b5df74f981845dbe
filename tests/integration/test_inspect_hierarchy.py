"""What heads say of classes, counted by Ray over shards, against the same counted at once."""

import json

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.progress import Progress
from icce_ray.stages.cluster import Resources
from icce_ray.stages.inspect import hierarchy
from icce_ray.store.artifacts import CONSENSUS, HIERARCHY
from jobs.bench import made_run
from tests.unit.report.conftest import source_of

pytestmark = pytest.mark.usefixtures("cluster")
CLASSES = 7


def test_shards_add_up_whatever_the_labels(tmp_path, monkeypatch):
    """Also where images that all heads see alike have several labels, as people may have decided in a version."""
    monkeypatch.setattr(made_run, "SHARD", 128)
    source = source_of(tmp_path / "images", 500)
    store = made_run.make_run(str(tmp_path / "run"), source, clusters=CLASSES, heads=3, epochs=2)
    labels, marker = [], store.require("consensus")
    for number, info in enumerate(CONSENSUS.files(marker.files)):
        table = store.storage.read_table(info.path)
        label = table["label"].to_numpy().copy()
        label[np.flatnonzero(label == 0)[::2]] = 3
        place = table.column_names.index("label")
        CONSENSUS.write(store.storage, table.set_column(place, "label", pa.array(label)), number)
        labels.append(label)
    every = np.concatenate(labels)
    files = [store.storage.describe(info.path) for info in marker.files]
    sizes = {"cluster_sizes": np.bincount(every, minlength=CLASSES).tolist()}
    store.commit("consensus", files, fingerprint=marker.fingerprint, summary=marker.summary | sizes, seconds=0)
    made_run._inspected(store, store.settings(), every)
    at_once = json.loads(store.storage.read_bytes(HIERARCHY.path))
    store.storage.delete(HIERARCHY.path)
    here = Resources(device="cpu", gpus=0, nodes=1, cores=1)
    _, figures = hierarchy.run(store.settings(), store, here, Progress())
    assert figures == {"merges": CLASSES - 1}
    assert json.loads(store.storage.read_bytes(HIERARCHY.path)) == at_once
