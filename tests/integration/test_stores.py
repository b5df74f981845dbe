"""Storage on a real S3 server that fails often, that is killed and starts again, and whose writers are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from icce_ray.adapters import s3
from icce_ray.adapters.storage import Storage
from tests.servers import radosgw as ceph
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import S3Server, aws_environment

TABLE = pa.table({"image_id": pa.array([1, 2, 3], pa.int64()), "uri": ["a", "b", "c"]})
DOWN = 20.0


@pytest.mark.slow
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
    """Ceph's gateway with its data on disk, so that it comes back with them."""
    if reason := ceph.available():
        pytest.skip(reason)
    gateway = ceph.RadosGateway(tmp_path / "ceph", "bluestore").create()
    with aws_environment():
        yield S3Server("radosgw", gateway.endpoint, gateway=gateway)
    gateway.kill()


@pytest.mark.slow
def test_a_killed_server_that_starts_again_is_waited_for(on_disk):
    uri = on_disk.uri(f"{on_disk.bucket()}/run")
    storage, stop, written = Storage(uri), threading.Event(), {}
    big = os.urandom(12_000_000)
    for name in ("doomed", "tree/a"):
        storage.write_bytes(name, b"1")
    kept = storage.write_table("kept.parquet", TABLE)

    def write(worker):
        number = 0
        while not stop.is_set():
            data = b"%d-%d" % (worker, number) * 2000 if number % 4 else big[worker:]
            storage.write_bytes(f"w{worker}/{number}", data)
            written[f"w{worker}/{number}"] = data
            number += 1

    def during_the_outage(call):
        begin = time.monotonic()
        return call(), time.monotonic() - begin

    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write, worker) for worker in range(3)]
        time.sleep(1.5)
        on_disk.gateway.kill()
        acknowledged = dict(written)
        calls = {
            "exists": lambda: storage.exists("kept.parquet"),
            "read": lambda: storage.read_table("kept.parquet").equals(TABLE),
            "describe": lambda: storage.describe("kept.parquet") == kept,
            "list": lambda: ("kept.parquet", kept.bytes) in storage.list(),
            "delete": lambda: storage.delete("doomed") is None,
            "delete_tree": lambda: storage.delete_tree("tree") is None,
            "open": lambda: storage.open_input("kept.parquet").size() == kept.bytes,
            "put_if": lambda: s3.put_if(on_disk.uri(f"{uri[5:].split('/')[0]}/lock"), b"mine", etag=None) is not None,
        }
        waiting = {name: pool.submit(during_the_outage, call) for name, call in calls.items()}
        time.sleep(DOWN)
        on_disk.gateway.start()
        results = {name: future.result(timeout=120) for name, future in waiting.items()}
        stop.set()
        for writer in writers:
            writer.result(timeout=120)
    assert {name for name, (good, _) in results.items() if not good} == set()
    assert min(seconds for _, seconds in results.values()) > DOWN / 2
    assert acknowledged
    assert len(written) > len(acknowledged)
    for name, data in written.items():
        assert storage.read_bytes(name) == data
    assert not {"doomed", "tree/a"} & {name for name, _ in storage.list()}


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
from icce_ray.adapters.storage import Storage
Storage({radosgw.uri(f"{bucket}/run", port=proxy.port)!r}).write_bytes("a", b"n" * {size})
"""
        writer = subprocess.Popen([sys.executable, "-c", program])
        assert killed.wait(60)
        assert writer.wait(60) == -signal.SIGKILL
    assert storage.list() == [("a", 3)]
    assert storage.read_bytes("a") == b"old"
    assert s3.abort_uploads(storage.root) == (size > 10_000_000)
