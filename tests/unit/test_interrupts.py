"""Ctrl-C, SIGTERM and a lost lock, in every stage: how the command ends, and what its last line says."""

import functools
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.train.torch import TorchTrainer

from icce_ray import pipeline
from icce_ray.cli import main as cli
from icce_ray.cli.interrupts import again
from icce_ray.stages.elastic import fit
from icce_ray.store.lock import LOCK_FILE, RunLock

EMBEDDED = {"images": 4, "ok": 4, "rejected": 0, "rejected_by_reason": {}}
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def interrupted(icce, monkeypatch, tmp_path):
    """Calls `icce run` in a place where every stage but one has nothing to do, and that one does `act`."""
    (tmp_path / "photos").mkdir()
    for index in range(4):
        (tmp_path / "photos" / f"{index}.png").write_bytes(b"listed, never read")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "connected", nullcontext)
    monkeypatch.setattr(pipeline, "resources", lambda *_, **__: SimpleNamespace(device="cpu", gpu_memory=0))
    monkeypatch.setattr(pipeline, "tracked", lambda settings, store, shown, **_: nullcontext(shown))
    monkeypatch.setattr(pipeline, "RunLock", functools.partial(RunLock, renew_every=0.3))

    def call(stage, act, *arguments):
        for name in pipeline.STAGES:
            monkeypatch.setitem(pipeline.STAGES, name, lambda *_: ([], dict(EMBEDDED)))
        monkeypatch.setitem(pipeline.STAGES, stage, lambda *_: act() or ([], {}))
        status, _, err = icce("run", "photos", "-k", "2", "--backbone", "hog", "--out", "a run", *arguments)
        return status, err.splitlines()[-1]

    return call


def twice(number):
    """As of `timeout`, which signals the process and its group."""
    try:
        signal.raise_signal(number)
    finally:
        signal.raise_signal(number)


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("stage", list(pipeline.STAGES))
def test_an_interrupt_says_where_the_run_stands_and_how_to_go_on(interrupted, stage, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        status, line = interrupted(stage, lambda: twice(number), "--redo", "embed", "--take-over")
    finally:
        for one, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(one, handler)
    assert status == ENDS[number]
    assert f"stage {stage}" in line
    assert line.endswith("icce run photos -k 2 --backbone hog --out 'a run'")
    assert not Path("a run", LOCK_FILE).exists()


@pytest.mark.parametrize("stage", list(pipeline.STAGES))
def test_a_lost_lock_ends_every_stage(interrupted, stage):
    def lose():
        with RunLock("a run", command="another", take_over=True):
            threading.Event().wait(60)

    status, line = interrupted(stage, lose)
    assert status == cli.EXIT_ERROR
    assert "taken from this process" in line
    assert "`another`" in line


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["/usr/bin/icce", "run", "a b", "--redo=heads", "-k", "2"], "icce run 'a b' -k 2"),
        (["/usr/bin/icce", "run", "x", "--redo", "heads", "--take-over", "-q"], "icce run x -q"),
        (["jobs/run.py", "x", "--out", "s3://b/r?scheme=http"], "python jobs/run.py x --out 's3://b/r?scheme=http'"),
    ],
)
def test_the_command_that_goes_on_deletes_nothing_again(given, left):
    assert again(given) == left


@pytest.mark.parametrize("fails", [False, True])
def test_ray_trains_handler_does_not_outlive_the_training(monkeypatch, fails):
    def train(self):
        signal.signal(signal.SIGINT, lambda *_: None)
        if fails:
            raise OSError("disk")

    assert hasattr(TorchTrainer, "_register_sigint_handler"), "what is kept from being installed at all"
    monkeypatch.setattr(TorchTrainer, "fit", train)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="disk") if fails else nullcontext():
        fit(object.__new__(TorchTrainer))
    assert signal.getsignal(signal.SIGINT) is before
