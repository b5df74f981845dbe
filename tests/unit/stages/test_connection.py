"""How this process connects to Ray: under which user, on which address, and what it leaves unchanged."""

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray.exceptions import RaySystemError, RayTaskError

from icce_ray.stages import connection
from icce_ray.stages.connection import connected, keep_token
from icce_ray.store import RunError
from tests.failures import fails

SWITCH = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """What Ray is started with; it does as the real one does to the handler of SIGTERM."""
    found = []

    def init(**options):
        found.append((options, os.environ[SWITCH], ray_constants.ENABLE_RAY_CLUSTER))
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    for name in connection.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, connection.QUIET[name]))
    return found


def test_a_local_ray_listens_on_the_loopback_and_takes_no_signal(starts):
    before = signal.getsignal(signal.SIGTERM), ray_constants.ENABLE_RAY_CLUSTER
    with connected():
        assert signal.getsignal(signal.SIGTERM) is before[0]
    ((options, switch, enabled),) = starts
    assert (options["address"], switch, enabled) == ("local", "0", False)
    assert (signal.getsignal(signal.SIGTERM), ray_constants.ENABLE_RAY_CLUSTER) == before
    assert SWITCH not in os.environ


def test_a_ray_that_is_slow_to_start_is_started_again(starts, monkeypatch, caplog):
    """Its own limit of 30 s is fixed; what the first attempt has left is gone before the second."""
    left = []
    start = ray.init

    def slow_at_first(**options):
        if not left:
            left.append(subprocess.Popen(["sleep", "600"]))
            raise Exception("The current node timed out during startup. This could happen because ...")
        start(**options)

    monkeypatch.setattr(ray, "init", slow_at_first)
    with connected():
        assert left[0].poll() is not None
    assert len(starts) == 1
    assert "attempt 2 of 3" in caplog.text


@pytest.mark.parametrize("there", [False, True])
def test_the_token_is_for_its_owner(monkeypatch, tmp_path, there):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = Path(tmp_path, ".ray", "auth_token")
    if there:
        token.parent.mkdir()
        token.write_text("made by Ray")
        token.chmod(0o644)
    keep_token()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == "made by Ray" if there else len(token.read_text()) == 64


def test_a_ray_that_does_not_start_is_one_line(starts, monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr(ray, "init", init)
    with fails(RunError, "The current node timed out during startup.", "same command") as caught, connected():
        pass
    assert "\n" not in str(caught.value)


def test_what_ray_loses_is_an_error_of_the_run_and_what_a_task_raises_is_not(starts):
    with fails(RunError, "the raylet died", "same command"), connected():
        raise RaySystemError("the raylet died")
    fault = RayTaskError("_task", "trace", ValueError("a fault of ours")).as_instanceof_cause()
    with pytest.raises(ValueError, match="trace"), connected():
        raise fault
