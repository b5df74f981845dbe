"""Ctrl-C and SIGTERM of a real driver: its exit status, and a last line that says where the run stands."""

import signal
from pathlib import Path

import pytest

from icce_ray import pipeline
from icce_ray.store import Store
from tests.processes import PATIENCE

from .conftest import IMAGES, tiny, without_heads
from .drivers import Driver, assert_as_if_unbroken, run_command, shared_cluster
from .test_kills import at

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes"),
    pytest.mark.faults,
    pytest.mark.slow(60),
]


def test_each_signal_ends_it_and_says_how_to_go_on(digits, finished, tmp_path, ends):
    """In heads while Ray Train's own handler could be in the way, and in the stage after it, in the same process."""
    without_heads(finished, tmp_path / "run")
    settings = tiny(digits[0], tmp_path / "run")
    store = Store(settings.out)
    for number, stage, point in ((signal.SIGTERM, "heads", "late"), (signal.SIGINT, "consensus", "middle")):
        with at(store, stage, point) as held:
            driver = Driver(run_command(settings, tmp_path), tmp_path, ends, shared_cluster())
            held.reached(driver.check)
            driver.process.send_signal(number)
            held.release()
            assert driver.process.wait(PATIENCE) == 128 + number, driver.log.read_text()
        last = driver.log.read_text().rstrip().splitlines()[-1]
        assert f"stage {stage}" in last
        assert f"icce run {settings.source}" in last
        assert "Traceback" not in driver.log.read_text()
        assert not store.storage.exists("lock.json")
    pipeline.run(settings, verbose=False)
    assert_as_if_unbroken(store, finished, IMAGES)
