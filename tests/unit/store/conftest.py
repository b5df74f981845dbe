"""A place for a run on every kind of store, processes that hold one, and small complete runs to be damaged."""

import subprocess
import sys
import uuid

import pytest

from icce_ray.io import conditional
from tests import small_run

#: Holds the lock of a run until it is killed, its standard input ends, or the lock is lost.
HOLD = """
import signal, sys
# A shell has commands in the background ignore Ctrl-C; whoever runs these tests may be one.
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[3] == "background" else signal.default_int_handler)
from icce_ray.store.lock import RunLock
from icce_ray.store import RunError
try:
    with RunLock(sys.argv[1], renew_every=float(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""


@pytest.fixture
def run(tmp_path):
    return small_run.made(tmp_path / "run")


@pytest.fixture
def predicted(tmp_path):
    return small_run.predicted(tmp_path / "predicted")


@pytest.fixture
def local(tmp_path):
    return str(tmp_path / "runs" / "run")


@pytest.fixture
def on_moto(moto):
    return moto.uri(f"{moto.bucket()}/run")


@pytest.fixture
def on_radosgw(radosgw):
    return radosgw.uri(f"{radosgw.bucket()}/run")


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(conditional, "SETTLE", 0.3)
    return f"fsspec+memory://{uuid.uuid4().hex}/run"


ON_RADOSGW = pytest.param("on_radosgw", marks=pytest.mark.slow(2))


@pytest.fixture(params=["local", "on_moto", ON_RADOSGW, "in_memory"])
def root(request):
    """A run that is not there yet, on every kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["local", "on_moto", ON_RADOSGW])
def shared_root(request):
    """The same where other processes see it."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def holding():
    """Starts processes that hold a run."""
    started = []

    def hold(root, renew_every=0.2, where="foreground"):
        command = [sys.executable, "-c", HOLD, root, str(renew_every), where]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()
