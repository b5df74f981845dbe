"""What a log shows of a stage: plain lines, often at first, never a flood."""

import io

from rich.console import Console

from icce_ray.adapters import progress
from icce_ray.adapters.progress import Display


def lines_of(hours, monkeypatch):
    """The lines of a stage that reports every second for so long."""
    clock, stream = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Display("embed", Console(file=stream)) as display:
        total = int(hours * 3600)
        display.begin(total, unit="images")
        for second in range(1, total + 1):
            clock[0] = second
            display.update(second, rejected=0)
    return stream.getvalue().splitlines()


def test_lines_are_plain_and_say_how_long_it_takes(monkeypatch):
    lines = lines_of(0.01, monkeypatch)
    assert lines[0] == "     embed  5 of 36 images, 1 a second, 31 s left, rejected 0"
    assert lines[-1] == "     embed  done in 36.0 s, rejected 0"
    assert len(lines) == 8


def test_a_day_of_work_is_no_flood(monkeypatch):
    assert 300 < len(lines_of(24, monkeypatch)) < 600
