"""Every check of `jobs/bench/gpu_day.py` as a test, on a machine with a GPU: `pytest -m gpu`."""

import pytest

from jobs.bench import gpu_day

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def day():
    if reason := gpu_day.missing_gpu():
        pytest.skip(reason)
    found, _ = gpu_day.prepared(dry=False)
    with found.held:
        yield found


@pytest.mark.parametrize("check", gpu_day.CHECKS, ids=lambda check: check.name)
def test_the_gpu_does_what_it_must(check, day):
    found = check.record(day)
    if found["status"] == "skipped":
        pytest.skip(found["reason"])
    assert found["status"] == "passed", found["reason"]
