"""Runs in a bucket: killed at every point, behind a line that fails, with a server that dies."""

import threading
import time

import pytest

from icce_ray import pipeline
from icce_ray.store import Store
from tests.servers.proxy import FaultProxy
from tests.servers.radosgw import RadosGateway, available
from tests.servers.s3 import S3Server, aws_environment

from .conftest import SLOW, tiny
from .drivers import assert_as_if_unbroken, wait_for
from .test_kills import IMAGES, assert_every_stage_was_hit, kill_at_every_point

OK = "features/status=ok"
KEY, SECRET = "testkey", "testsecret"


def filled(server, folder):
    """A new bucket with the images under `in/`."""
    bucket = server.bucket()
    for path in sorted(folder.iterdir()):
        server.client.put_object(Bucket=bucket, Key=f"in/{path.name}", Body=path.read_bytes())
    return bucket


@pytest.mark.parametrize("only", ["middle", pytest.param("", marks=pytest.mark.exhaustive)])
def test_a_run_killed_at_every_point(radosgw, slow_source, unbroken, tmp_path, agents, only):
    bucket = filled(radosgw, slow_source)
    settings = tiny(radosgw.uri(f"{bucket}/in"), radosgw.uri(f"{bucket}/run"), **SLOW)
    reached = kill_at_every_point(settings, tmp_path, agents, poll=0.02, only=only)
    assert len(reached) >= 5
    if not only:
        assert_every_stage_was_hit(reached)
    store = Store(settings.out)
    assert_as_if_unbroken(store, unbroken, IMAGES)
    assert not radosgw.client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not store.storage.exists("lock.json")
    assert_no_secret(store, (tmp_path / "log.txt").read_bytes())


def assert_no_secret(store, *texts):
    """Neither key in anything that the run has written, in any file's plain bytes or table."""
    names = [name for name, _ in store.storage.list()]
    assert "run.yaml" in names
    for text in [*texts, *(store.storage.read_bytes(name) for name in names)]:
        assert KEY.encode() not in text
        assert SECRET.encode() not in text
    for name in names:
        if name.endswith(".parquet"):
            assert SECRET not in str(store.storage.read_table(name).to_pylist())


# The same run in fewer requests: another number of shards or checkpoints changes no label.
LARGE_SHARDS = {
    "embed": SLOW["embed"] | {"rows_per_shard": 40},
    "neighbors": {"rows_per_shard": 80},
    "heads": SLOW["heads"] | {"checkpoint_epochs": 40},
}


def test_a_line_that_fails(radosgw, slow_source, unbroken):
    """503 on 20 % of the requests, bodies cut on 10 % down and, since a run writes seldom, on 40 % up."""
    bucket = filled(radosgw, slow_source)
    proxy = FaultProxy(radosgw.port, busy=0.2, cut_up=0.4, cut_down=0.1).start()
    try:
        settings = tiny(*(radosgw.uri(f"{bucket}/{name}", port=proxy.port) for name in ("in", "run")), **LARGE_SHARDS)
        pipeline.run(settings, verbose=False)
        done = dict(proxy.done)
    finally:
        proxy.stop()
    assert min(done[fault] for fault in ("busy", "cut_up", "cut_down")) >= 10, done
    assert_as_if_unbroken(Store(radosgw.uri(f"{bucket}/run")), unbroken, IMAGES)


def test_a_server_killed_and_started_again(slow_source, unbroken, tmp_path):
    if reason := available():
        pytest.skip(reason)
    gateway = RadosGateway(tmp_path / "ceph", "bluestore").create()
    try:
        with aws_environment():
            server = S3Server("radosgw", gateway.endpoint)
            bucket = filled(server, slow_source)
            settings = tiny(server.uri(f"{bucket}/in"), server.uri(f"{bucket}/run"), **SLOW)
            away = []

            def kill_and_start():
                store = Store(settings.out)
                wait_for(lambda: len(store.parts(OK)) >= 3, "the third shard of features", poll=0.05)
                gateway.kill()
                away.append(time.monotonic())
                time.sleep(20)
                gateway.start()
                away.append(time.monotonic())

            killer = threading.Thread(target=kill_and_start)
            killer.start()
            pipeline.run(settings, verbose=False)
            killer.join()
            assert away[1] - away[0] >= 20
            assert_as_if_unbroken(Store(settings.out), unbroken, IMAGES)
    finally:
        gateway.kill()
