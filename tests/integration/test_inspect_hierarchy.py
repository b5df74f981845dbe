"""What heads say of classes, counted by Ray over shards, against the same counted at once."""

import json

import pytest

from icce_ray.progress import Progress
from icce_ray.stages import ensemble
from icce_ray.stages.cluster import Resources
from icce_ray.stages.inspect import hierarchy
from icce_ray.store.artifacts import HIERARCHY
from jobs.bench import made_run
from tests.unit.report.conftest import source_of

pytestmark = pytest.mark.usefixtures("cluster")


def test_shards_and_blocks_of_heads_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(made_run, "SHARD", 128)
    monkeypatch.setattr(ensemble, "IMAGES_PER_SHARD", 200)
    source = source_of(tmp_path / "images", 500)
    store = made_run.make_run(str(tmp_path / "run"), source, clusters=7, heads=12, epochs=2)
    at_once = json.loads(store.storage.read_bytes(HIERARCHY.path))
    store.storage.delete(HIERARCHY.path)
    here = Resources(device="cpu", gpus=0, nodes=1, cores=1)
    _, figures = hierarchy.run(store.settings(), store, here, Progress())
    found = json.loads(store.storage.read_bytes(HIERARCHY.path))
    assert figures == {"merges": 6}
    assert found == at_once
