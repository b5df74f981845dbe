"""A run in a bucket, on several nodes that vanish one by one in the middle of a stage, as spot instances do."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from icce_ray.store import Store
from icce_ray.store.artifacts import checkpoint_of
from tests.barriers import barrier
from tests.processes import wait_for

from .conftest import IMAGES, SHARDED, tiny
from .drivers import Driver, assert_as_if_unbroken, assert_no_secret, run_command
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


def test_workers_and_nodes_are_lost_in_every_stage_that_keeps_something_there(
    bucket_server, digits, finished, tmp_path, nodes, ends
):
    bucket = bucket_server.filled(digits[0])
    uris = (bucket_server.uri(f"{bucket}/{name}") for name in ("in", "run"))
    settings = tiny(*uris, **SHARDED | {"resources": {"embed_actors": 3, "device": "cpu"}})
    store = Store(settings.out)
    with (
        barrier(store, "manifest/part-*", passes=8, operation="get") as reading,  # the others need another actor
        barrier(store, "neighbors/part-*", passes=5) as mining,
        barrier(store, checkpoint_of("heads"), passes=4) as training,
    ):
        driver = Driver(run_command(settings, tmp_path), tmp_path, ends, nodes.environment)
        for held, title in ((reading, "ray::MapWorker"), (mining, "ray::Shard"), (training, "ray::RayTrainWorker")):
            victims = [held.reached(driver.check)] if held is reading else []  # the worker of a task
            found = wait_for(lambda title=title: nodes.workers(title), f"a {title}")
            (lost, _), *others = sorted((node, pid) for pid, node in found.items())
            for pid in (*victims, *(pid for node, pid in others if node != lost)):  # and actors of other nodes
                os.kill(pid, signal.SIGKILL)
            nodes.remove(lost)
            held.release()
        driver.finish()
    assert not nodes.workers("ray::")
    assert_as_if_unbroken(store, finished, IMAGES)
    assert not bucket_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert_no_secret(store, driver.log.read_bytes())
