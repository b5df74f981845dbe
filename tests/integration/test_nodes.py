"""A run in a bucket, on several nodes that vanish one by one in the middle of a stage, as spot instances do."""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import pytest

from icce_ray.store import Store
from icce_ray.store.artifacts import checkpoint_of
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.processes import wait_for

from .conftest import IMAGES, SHARDED, tiny, without_heads
from .drivers import Driver, assert_as_if_unbroken, assert_no_secret, run_command
from .nodes import Nodes

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.faults,
]


#: Where each stage is held, after how many files, and the title of the processes that are killed then.
HELD = {
    "embed": ("manifest/part-*", 8, "get", "ray::MapWorker"),  # the others need another actor
    "neighbors": ("neighbors/part-*", 5, "put", "ray::Shard"),
    "heads": (checkpoint_of("heads"), 4, "put", "ray::RayTrainWorker"),
}


@pytest.fixture
def nodes(request):
    """A head with one CPU and nodes of so many; Ray's files lie where the path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="icce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Nodes(1, *request.param, temporary=folder)
        yield found
        found.close()


@pytest.mark.slow(200)
@pytest.mark.parametrize("nodes", [[2] * 3], indirect=True, ids=["three"])
def test_workers_and_nodes_are_lost_in_every_stage_that_keeps_something_there(
    bucket_server, digits, finished, tmp_path, nodes, ends
):
    bucket = bucket_server.filled(digits[0])
    uris = (bucket_server.uri(f"{bucket}/{name}") for name in ("in", "run"))
    settings = tiny(*uris, **SHARDED | {"resources": {"embed_actors": 3, "device": "cpu"}})
    store = Store(settings.out)
    with contextlib.ExitStack() as stack:
        barriers = {}
        for stage, (path, passes, operation, _) in HELD.items():
            barriers[stage] = stack.enter_context(barrier(store, path, passes=passes, operation=operation))
        driver = Driver(run_command(settings, tmp_path), tmp_path, ends, nodes.environment)
        for stage, held in barriers.items():
            title = HELD[stage][-1]
            victims = [held.reached(driver.check)] if stage == "embed" else []  # the worker of a task
            found = wait_for(lambda title=title: nodes.workers(title), f"a {title}")
            (lost, _), *others = sorted((node, pid) for pid, node in found.items())
            for pid in (*victims, *(pid for node, pid in others if node != lost)):  # and actors of other nodes
                os.kill(pid, signal.SIGKILL)
            nodes.remove(lost)
            held.release()
        driver.finish()
    assert not [title for *_, title in HELD.values() if nodes.workers(title)]  # Ray Data's own actors are detached
    assert_as_if_unbroken(store, finished, IMAGES)
    assert not bucket_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert_no_secret(store, driver.log.read_bytes())


@pytest.mark.slow(80)
@pytest.mark.parametrize("nodes", [[1]], indirect=True, ids=["one"])
def test_heads_go_on_without_a_node_that_does_not_come_back_and_take_in_a_new_one(
    digits, finished, tmp_path, nodes, ends
):
    store = without_heads(finished, tmp_path / "run")
    words = run_command(tiny(digits[0], store.root, resources={"head_workers": 2}), tmp_path)
    with barrier(store, checkpoint_of("heads")) as held:
        driver = Driver([*words, "--until", "heads"], tmp_path, ends, nodes.environment)
        writer = held.reached(driver.check)
        nodes.remove(0)
        wait_for(lambda: driver.check() or set(held.held()) - {writer}, "a checkpoint of those that are left")
        assert "with 1 of 2 workers" in driver.log.read_text()
        nodes.add()
    driver.finish()
    assert "there is room for more: going on from the last checkpoint with 2 of 2 workers" in driver.log.read_text()
    assert list(violations(store)) == []
