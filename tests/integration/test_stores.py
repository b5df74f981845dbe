"""Storage and runs on a real S3 server that fails often, is killed and starts again, and whose writers are killed."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from icce_ray import pipeline
from icce_ray.io.conditional import swap
from icce_ray.io.storage import Storage
from icce_ray.io.stores import abort_uploads
from icce_ray.store import Store
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.processes import PATIENCE, wait_for
from tests.servers import radosgw as ceph
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import S3Server, aws_environment

from .conftest import IMAGES, SHARDED, tiny
from .drivers import assert_as_if_unbroken, rows

TABLE = pa.table({"image_id": pa.array([1, 2, 3], pa.int64()), "uri": ["a", "b", "c"]})


@pytest.mark.slow(15)
def test_a_store_that_often_fails_serves_every_file_whole(radosgw):
    bucket = radosgw.bucket()
    straight = Storage(radosgw.uri(f"{bucket}/run"))
    data = {f"f/{n:03d}.parquet": TABLE.slice(n % 3).append_column("n", pa.array([n] * (3 - n % 3))) for n in range(60)}
    with FaultProxy(radosgw.port, busy=0.2, cut_up=0.1, cut_down=0.1, seed=3) as proxy, ThreadPoolExecutor(8) as pool:
        storage = Storage(radosgw.uri(f"{bucket}/run", port=proxy.port))
        infos = dict(zip(data, pool.map(lambda path: storage.write_table(path, data[path]), data), strict=True))
        assert dict(storage.list()) == {path: info.bytes for path, info in infos.items()}
        assert all(pool.map(storage.exists, data))
        assert list(pool.map(storage.describe, data)) == list(infos.values())
        assert all(
            table.equals(data[path]) for path, table in zip(data, pool.map(storage.read_table, data), strict=True)
        )
        big = os.urandom(3_000_000)
        list(pool.map(lambda n: storage.write_bytes(f"big/{n}", big[n:]), range(8)))
        assert list(pool.map(lambda n: storage.read_bytes(f"big/{n}"), range(8))) == [big[n:] for n in range(8)]
        list(pool.map(storage.delete, list(data)[:10]))
        storage.delete_tree("big")
        assert min(proxy.done[fault] for fault in ("busy", "cut_up", "cut_down")) > 5
    assert [name for name, _ in straight.list()] == list(data)[10:]
    assert [straight.describe(path) for path in list(data)[10:]] == list(infos.values())[10:]


@pytest.fixture
def on_disk(tmp_path):
    """Ceph's gateway with its data on disk, so that they survive a restart."""
    if reason := ceph.available():
        pytest.skip(reason)
    gateway = ceph.RadosGateway(tmp_path / "ceph", "bluestore").create()
    with aws_environment():
        yield S3Server("radosgw", gateway.endpoint, gateway=gateway)
    gateway.kill()


@pytest.mark.faults
def test_a_killed_server_that_starts_again_is_waited_for(on_disk, digits, finished):
    """By a run in the middle of its embedding, and by every kind of request alone; what was acknowledged is there."""
    bucket, big = on_disk.filled(digits[0]), os.urandom(12_000_000)
    with FaultProxy(on_disk.port) as proxy, ThreadPoolExecutor(16) as pool:
        source, out, other = (on_disk.uri(f"{bucket}/{name}", port=proxy.port) for name in ("in", "run", "other"))
        settings, storage, store = tiny(source, out, **SHARDED), Storage(other), Store(out)
        kept = storage.write_table("kept.parquet", TABLE)
        for name, data in (("doomed", b"1"), ("tree/a", b"1"), ("big", big)):
            storage.write_bytes(name, data)
        calls = {
            "exists": lambda: storage.exists("kept.parquet"),
            "read": lambda: storage.read_table("kept.parquet").equals(TABLE),
            "describe": lambda: storage.describe("kept.parquet") == kept,
            "list": lambda: ("kept.parquet", kept.bytes) in storage.list(),
            "delete": lambda: storage.delete("doomed") is None,
            "delete_tree": lambda: storage.delete_tree("tree") is None,
            "swap": lambda: swap(storage.uri("lock"), b"mine", None) is not None,
            "write": lambda: storage.write_bytes("new", big[1:]) is None,
        }
        with barrier(store, "features/status=ok/part-*", passes=5) as held:
            running = pool.submit(pipeline.run, settings, last="embed", verbose=False)
            held.reached(lambda: running.done() and running.result())
            on_disk.gateway.kill()
        waiting = {name: pool.submit(call) for name, call in calls.items()}
        wait_for(lambda: proxy.done["away"] >= 3 * len(calls), "requests without an answer")
        assert not any(future.done() for future in (running, *waiting.values()))
        on_disk.gateway.start()
        assert {name for name, future in waiting.items() if not future.result(PATIENCE)} == set()
        running.result(PATIENCE)
    straight = Storage(on_disk.uri(f"{bucket}/other"))
    assert (straight.read_bytes("big"), straight.read_bytes("new")) == (big, big[1:])
    assert {name for name, _ in straight.list()} == {"big", "kept.parquet", "lock", "new"}
    run = Store(on_disk.uri(f"{bucket}/run"))
    assert rows(run, "features/status=ok") == rows(finished, "features/status=ok")
    assert list(violations(run)) == []


@pytest.mark.slow(60)
def test_a_run_behind_a_line_that_fails(radosgw, digits, finished):
    """503 on 20 % of the requests, bodies cut on 10 % down and, since a run writes seldom, on 40 % up."""
    bucket = radosgw.filled(digits[0])
    with FaultProxy(radosgw.port, busy=0.2, cut_up=0.4, cut_down=0.1) as proxy:
        settings = tiny(*(radosgw.uri(f"{bucket}/{name}", port=proxy.port) for name in ("in", "run")))
        pipeline.run(settings, verbose=False)
        done = dict(proxy.done)
    assert min(done[fault] for fault in ("busy", "cut_up", "cut_down")) >= 10, done
    assert_as_if_unbroken(Store(radosgw.uri(f"{bucket}/run")), finished, IMAGES)


@pytest.mark.faults
@pytest.mark.parametrize(("size", "request_number"), [(200_000, 1), (30_000_000, 3)])
def test_a_writer_killed_in_an_upload_leaves_nothing_readable(radosgw, size, request_number):
    bucket = radosgw.bucket()
    storage = Storage(radosgw.uri(f"{bucket}/run"))
    storage.write_bytes("a", b"old")
    with FaultProxy(radosgw.port) as proxy:
        seen = threading.Semaphore(request_number - 1)
        killed = threading.Event()

        def on_request(method, path):
            if method == "PUT" and not seen.acquire(blocking=False):
                os.kill(writer.pid, signal.SIGKILL)
                killed.set()

        proxy.on_request = on_request
        program = f"""
from icce_ray.io.storage import Storage
Storage({radosgw.uri(f"{bucket}/run", port=proxy.port)!r}).write_bytes("a", b"n" * {size})
"""
        writer = subprocess.Popen([sys.executable, "-c", program])
        assert killed.wait(PATIENCE)
        assert writer.wait(PATIENCE) == -signal.SIGKILL
    assert storage.list() == [("a", 3)]
    assert storage.read_bytes("a") == b"old"
    assert abort_uploads(storage.root) == (size > 10_000_000)
