"""A run on several nodes of which one after the other vanishes, as spot instances do."""

import tempfile
from pathlib import Path

import pytest

from icce_ray.store import Store

from .conftest import SLOW, SLOW_IMAGES, tiny
from .drivers import Driver, assert_as_if_unbroken, wait_for
from .nodes import Nodes
from .test_kills import OK, epoch_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")


@pytest.fixture
def nodes():
    """A head with one CPU and three nodes of two; Ray's files lie where the path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="icce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Nodes(1, 2, 2, 2, temporary=folder)
        yield found
        found.close()


def test_a_node_is_lost_in_every_stage_that_keeps_something_on_nodes(slow_source, unbroken, tmp_path, nodes, agents):
    settings = tiny(slow_source, tmp_path / "run", **SLOW, resources={"embed_actors": 3, "device": "cpu"})
    store = Store(settings.out)
    driver = Driver(settings, tmp_path, agents, nodes.environment)

    def lose_a_node(title, in_the_middle):
        def holder():
            assert driver.process.poll() is None, f"the run ended before {title} was seen:\n{driver.log.read_text()}"
            return in_the_middle() and nodes.workers(title)

        wait_for(holder, f"{title} at work on a node", poll=0.02)
        nodes.remove(max(nodes.workers(title)))

    lose_a_node("ray::MapWorker", lambda: 3 <= len(store.parts(OK)) < 18)
    assert store.marker("embed") is None
    lose_a_node("ray::Shard", lambda: 3 <= len(store.parts("neighbors")) < 45)
    assert store.marker("neighbors") is None
    lose_a_node("ray::RayTrainWorker", lambda: epoch_of(store, tmp_path) >= 5)
    assert store.marker("heads") is None
    driver.finish()
    assert not any(nodes.workers("ray::").values())
    assert_as_if_unbroken(store, unbroken, SLOW_IMAGES)
