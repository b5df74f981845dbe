"""One writer a run: commands on a run that is in use, that was left, or that is taken over in the middle of a stage."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icce_ray import commands, pipeline
from icce_ray.cli.main import app
from icce_ray.io.sources import SourceError
from icce_ray.store import RunError, Store
from icce_ray.store.lock import LOCK_FILE, WORKERS_END, RunLock, holder_of
from icce_ray.store.verify import violations
from tests.barriers import barrier
from tests.failures import fails
from tests.processes import PATIENCE

from .conftest import tiny

HOLD = """
import sys
from icce_ray.store.lock import RunLock

RunLock(sys.argv[1]).__enter__()
print("held", flush=True)
sys.stdin.read()
"""


def files(root):
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())


def leave(root):
    """A lock whose process was killed."""
    with subprocess.Popen([sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        process.kill()
    assert holder_of(root).process.pid == process.pid
    return process.pid


def settings_of(store, source):
    return tiny(source, store.root)


def test_a_run_in_use_is_left_alone(digits, finished, copy, tmp_path):
    settings, out = settings_of(copy, digits[0]), tmp_path / "out"
    with RunLock(copy.root), RunLock(str(out)):
        before = files(copy.root)
        for refused in (
            lambda: pipeline.run(settings, verbose=False),
            lambda: pipeline.run(settings, redo="list", verbose=False),
            lambda: commands.evaluate(copy.root, str(digits[1]), verbose=False),
            lambda: commands.predict(finished.root, str(digits[0]), str(out), verbose=False),
        ):
            with fails(RunError, "in use", f"pid {os.getpid()}", "--take-over"):
                refused()
        assert files(copy.root) == before
        assert [name for name, _ in Store(str(out)).storage.list()] == [LOCK_FILE]
        assert list(violations(copy)) == []  # reading needs no lock
        shown = CliRunner().invoke(app, ["status", copy.root])
        assert "in use by pid" in shown.output
    assert "in use" not in CliRunner().invoke(app, ["status", copy.root]).output


def test_a_start_that_fails_leaves_no_file(digits, tmp_path):
    with fails(RunError, "clusters = 400"):
        pipeline.run(tiny(digits[0], tmp_path / "run", clusters=400), verbose=False)
    assert files(tmp_path / "run") == []
    with fails(SourceError, "no-such-folder"):
        pipeline.run(tiny(tmp_path / "no-such-folder", tmp_path / "other"), verbose=False)
    assert not (tmp_path / "other").exists()


def test_a_run_left_by_a_killed_process_goes_on(digits, copy, capsys):
    pid = leave(copy.root)
    pipeline.run(settings_of(copy, digits[0]))
    text = capsys.readouterr().err
    assert f"the run was left by pid {pid} on" in text
    assert "which is dead: taken over" in text
    assert holder_of(copy.root) is None


def test_nothing_is_deleted_before_the_workers_of_a_killed_process_have_ended(digits, copy, capsys, monkeypatch):
    leave(copy.root)
    marker, sleep, stood = Path(copy.root) / "predictions/_manifest.json", time.sleep, []

    def slept(seconds):
        if seconds == WORKERS_END:
            stood.append(marker.exists())
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", slept)
    pipeline.run(settings_of(copy, digits[0]), redo="predict")
    assert stood == [True]
    assert "waiting 5 s for what the former holder started" in capsys.readouterr().err
    assert list(violations(copy)) == []


@pytest.mark.faults
def test_a_run_that_is_taken_over_stops_in_the_middle_of_a_stage(digits, copy, monkeypatch):
    monkeypatch.setitem(RunLock.__init__.__kwdefaults__, "renew_every", 0.5)
    end = threading.Event()

    def take(held):
        held.reached()
        with RunLock(copy.root, take_over=True, command="icce run"):
            end.wait(PATIENCE)

    settings = tiny(digits[0], copy.root)
    with ThreadPoolExecutor(1) as pool, barrier(copy, "predictions/part-*", passes=2) as held:
        taker = pool.submit(take, held)
        try:
            with fails(RunError, "taken from this process", f"pid {os.getpid()}"):
                pipeline.run(settings, redo="predict", verbose=False)
            assert holder_of(copy.root) is not None
            assert Store(copy.root).marker("predict") is None
        finally:
            end.set()
        taker.result()
    assert holder_of(copy.root) is None
