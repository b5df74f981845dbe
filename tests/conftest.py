"""One torch thread, and S3 servers that start when the first test asks for them."""

import threading

import pyarrow.fs as pafs
import pytest
import torch

from tests.servers import radosgw as ceph
from tests.servers.s3 import S3Server, aws_environment, forget_clients


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """These tensors are so small that waiting for a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def moto():
    """moto inside this process: quick, but it lets any key in."""
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


@pytest.fixture(scope="session", params=["moto", "radosgw"])
def s3_server(request):
    """Both servers in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def impatient(monkeypatch):
    """Arrow's own client asks only once, so that its errors are seen and soon."""
    once = pafs.AwsStandardS3RetryStrategy(max_attempts=1)
    monkeypatch.setattr(pafs, "AwsStandardS3RetryStrategy", lambda max_attempts: once)
    forget_clients()
    yield
    forget_clients()
