"""The connection to Ray: to a cluster that is there, or to one of this process alone, closed to everybody else."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError

from icce_ray.stages.cluster import MIN_LOGICAL_CPUS, QUIET, others_cluster
from icce_ray.store import RunError

START_ATTEMPTS = 3
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A connection to Ray: the one that is there, the cluster that RAY_ADDRESS names, or a local one for this run."""
    if ray.is_initialized():
        yield
        return
    try:
        # Ray's handler of SIGTERM ends the process at once, after pages of C++ frames.
        with kept_handler(signal.SIGTERM):
            _connect()
    except Exception as error:  # Ray raises this very class when a process of its own does not come up in time
        raise RunError(
            f"Ray did not start: {_first_line(error)} Look whether the machine has memory and time left, or at "
            "RAY_ADDRESS; then give the same command again"
        ) from error
    try:
        yield
    except RayTaskError:  # an error of ours, or one that is to be reported as it is
        raise
    except RayError as error:
        raise RunError(
            f"Ray lost what it needs for the work: {_first_line(error)}; the same command goes on where it stands"
        ) from error
    finally:
        ray.shutdown()


def _connect() -> None:
    if others_cluster():
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # it repeats its warnings every 30 s
        ray.init(log_to_driver=False)
    else:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run is raised, and shown once
        keep_token()
        with _on_loopback(), _stderr_of_c_closed():
            attempts = start_local_ray(num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1))
        if attempts > 1:
            _log.warning("Ray started at attempt %d of %d: this machine is busy", attempts, START_ATTEMPTS)


def start_local_ray(**options: Any) -> int:
    """Start a Ray of this process alone, with further options of `ray.init`; returns the number of attempts it took.

    Ray gives itself 30 s to start, which no setting changes and a busy machine exceeds. Raises what Ray raises.
    """
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR} | options
    attempt = 0
    while True:
        attempt += 1
        before = psutil.Process().children()
        try:
            ray.init(address="local", **options)  # without an address Ray joins any cluster that runs on this machine
            return attempt
        except Exception as error:  # Ray raises this very class
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
        for process in set(psutil.Process().children()) - set(before):  # they would compete with the next attempt
            process.kill()
            process.wait()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def kept_handler(number: int) -> Iterator[None]:
    """What handles a signal after the block is what did before, whatever Ray has installed."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if here and before is not None:
            signal.signal(number, before)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts within the block listens on 127.0.0.1 only: its switch for macOS and Windows, used on Linux.

    Other addresses of this machine would let others on its network ask for work, with the token as the only guard.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    given = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


def keep_token() -> None:
    """See to it that the token of this user's Rays is for this user's eyes: Ray writes it for everybody to read."""
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # a home that cannot be written: Ray says what it needs
        path.parent.mkdir(exist_ok=True)
        with (
            contextlib.suppress(FileExistsError),
            open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file,
        ):
            file.write(secrets.token_hex(32))
        path.chmod(0o600)


@contextlib.contextmanager
def _stderr_of_c_closed() -> Iterator[None]:
    """Ray's C++ part announces its log level on standard error and cannot be told not to; Python still raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
