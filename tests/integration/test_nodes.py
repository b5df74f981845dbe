"""A run on several nodes of which one after the other vanishes in the middle of a stage, as spot instances do."""

import tempfile
from pathlib import Path

import pytest

from icce_ray.store import Store, checkpoint_of
from tests.barriers import barrier

from .conftest import IMAGES, SHARDED, tiny
from .drivers import Driver, assert_as_if_unbroken, run_command
from .nodes import Nodes

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.faults,
]


@pytest.fixture
def nodes():
    """A head with one CPU and three nodes of two; Ray's files lie where the path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="icce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Nodes(1, 2, 2, 2, temporary=folder)
        yield found
        found.close()


def test_a_node_is_lost_in_every_stage_that_keeps_something_on_nodes(digits, finished, tmp_path, nodes, agents):
    settings = tiny(digits[0], tmp_path / "run", **SHARDED | {"resources": {"embed_actors": 3, "device": "cpu"}})
    store = Store(settings.out)
    with (
        barrier(store, "manifest/part-*", passes=8, operation="get") as reading,  # the others need another actor
        barrier(store, "neighbors/part-*", passes=5) as mining,
        barrier(store, checkpoint_of("heads"), passes=4) as training,
    ):
        driver = Driver(run_command(settings, tmp_path), tmp_path, agents, nodes.environment)
        for held, title in ((reading, "ray::MapWorker"), (mining, "ray::Shard"), (training, "ray::RayTrainWorker")):
            held.reached(driver.check)
            nodes.remove(max(nodes.workers(title).values()))
            held.release()
        driver.finish()
    assert not nodes.workers("ray::")
    assert_as_if_unbroken(store, finished, IMAGES)
