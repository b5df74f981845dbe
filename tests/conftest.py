"""One torch thread, and Ray and S3 servers that start when the first test asks for them."""

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.barriers import barriers
from tests.servers import radosgw as ceph
from tests.servers.s3 import S3Server, aws_environment

#: Seconds that a test takes, about, where it does not say so itself by `slow(seconds)`.
SECONDS = {"unit": 0.1, "numerics": 1.0}
FURTHER_SECONDS = 4.0
#: Files of few and long tests, which come first, so that at the end no process waits long for another.
LONG = ("test_demo.py", "test_nodes.py", "test_kills.py", "test_stores.py")


def pytest_addoption(parser):
    parser.addoption("--shard", default="", metavar="I/N", help="only the I-th of N parts that take about as long")


@pytest.hookimpl(trylast=True)  # after -m has deselected
def pytest_collection_modifyitems(config, items):
    """Deal the tests out, the longest first, to the shard that has the least: those of half a minute singly, others by
    file, whose fixtures they share."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if not config.option.shard:
        return
    chosen, shards = map(int, config.option.shard.split("/"))
    if not 1 <= chosen <= shards:
        raise pytest.UsageError(f"--shard={config.option.shard}: give 1/{shards} to {shards}/{shards}")
    seconds, key_of = Counter(), {}
    for item in items:
        slow, kind = item.get_closest_marker("slow"), item.path.relative_to(Path(__file__).parent).parts[0]
        takes = slow.args[0] if slow else SECONDS.get(kind, FURTHER_SECONDS)
        key_of[item] = item.nodeid if takes >= 30 else str(item.path)
        seconds[key_of[item]] += takes
    load, shard_of = Counter(dict.fromkeys(range(1, shards + 1), 0.0)), {}
    for key in sorted(seconds, key=lambda key: (-seconds[key], key)):
        shard_of[key] = min(load, key=load.__getitem__)
        load[shard_of[key]] += seconds[key]
    config.hook.pytest_deselected(items=[item for item in items if shard_of[key_of[item]] != chosen])
    items[:] = [item for item in items if shard_of[key_of[item]] == chosen]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """These tensors are so small that waiting for a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """Ctrl-C interrupts processes that tests start, also where a shell made them ignore it, as in CI."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def icce(monkeypatch, capsys):
    """`icce WORDS` as its console script calls it; (exit status, standard output, standard error)."""

    def call(*words):
        from icce_ray.cli.main import main

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["icce", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return end.value.code, out, err

    return call


@pytest.fixture
def offline(monkeypatch):
    """What the test tries is refused without a cluster and without a request to a model hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Ray for all tests of this process, with as many logical CPUs as on a laptop; the folder its workers stand in."""
    import ray

    from icce_ray.stages.cluster import QUIET
    from icce_ray.stages.connection import start_local_ray

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # A worker takes 1.5 s of CPU to start, 3 s with torch: none before it has work, and none ends between two tests.
    os.environ |= {"RAY_prestart_worker_first_driver": "0", "RAY_idle_worker_killing_time_threshold_ms": "600000"}
    with (
        aws_environment(),
        barriers(),
    ):  # Ray's workers take the environment of now: the keys of servers that start later
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder := tmp_path_factory.mktemp("workers"))
            start_local_ray(num_cpus=4, num_gpus=0, object_store_memory=250 * 2**20)
        yield folder
        ray.shutdown()


@pytest.fixture(scope="session")
def moto():
    """moto inside this process: quick, but it accepts any key."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    puts = threading.Lock()
    put = S3Response.put_object

    def put_at_once(self):
        """A store looks at the condition and writes in one step; moto in two, between which others may come."""
        with puts:
            return put(self)

    S3Response.put_object = put_at_once
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with aws_environment():
        yield S3Server("moto", f"{host}:{port}")
    server.stop()
    S3Response.put_object = put


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory):
    """Ceph's gateway, a process of its own in memory: checks signatures and policies as a real store does."""
    if reason := ceph.available():
        pytest.skip(reason)
    server = ceph.RadosGateway(tmp_path_factory.mktemp("ceph")).create()
    with aws_environment():
        yield S3Server("radosgw", server.endpoint, gateway=server)
    server.kill()


@pytest.fixture(scope="session")
def bucket_server(request):
    """Ceph's gateway where it is installed, else moto; `s3_server` gives both."""
    return request.getfixturevalue("moto" if ceph.available() else "radosgw")


@pytest.fixture(scope="session", params=["moto", "radosgw"])
def s3_server(request):
    """Both servers in turn."""
    return request.getfixturevalue(request.param)
