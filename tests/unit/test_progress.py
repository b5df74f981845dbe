"""What a user sees: one display of the stages on a terminal, plain lines in a log, and the same facts in both."""

import io
import logging
import re
import sys

import pytest

from icce_ray import progress
from icce_ray.progress import PartProgress, Progress, RunProgress
from icce_ray.terminal import Terminal

MEMORY = "memory: driver 0.5 GiB, node 3.0 of 8.0 GiB"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds that pass only where a test says so; memory that does not change."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "memory", lambda: MEMORY)
    return now


def terminal(width=100):
    return Terminal(
        force_terminal=True, force_interactive=True, file=io.StringIO(), width=width, height=40, color_system=None
    )


def plain(console):
    """What was written, without control sequences; carriage returns as ends of lines."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n")


def picture(shown):
    """The display as it stands."""
    console = terminal()
    console.print(shown.display.get_renderable())
    return plain(console)


def lines_of(hours, clock):
    """The lines of a stage that reports every second for so long."""
    stream = io.StringIO()
    with RunProgress(Terminal(file=stream)) as shown, shown.stage("embed") as stage:
        total = int(hours * 3600)
        stage.begin(total, unit="images")
        for second in range(1, total + 1):
            clock[0] = second
            stage.update(second, rejected=0)
    return stream.getvalue().splitlines()


# -- in a log ----------------------------------------------------------------------------------------------------------


def test_lines_are_plain_and_say_how_long_it_takes(clock):
    lines = lines_of(0.01, clock)
    assert lines[0] == f"     embed  5 of 36 images, 1 images per second, 0:00:31 left, rejected 0; {MEMORY}"
    assert lines[-1] == "     embed  done in 36.0 s, rejected 0"
    assert len(lines) == 8


def test_a_day_of_work_is_no_flood(clock):
    assert 300 < len(lines_of(24, clock)) < 600


def test_a_resumed_stage_says_so_and_counts_its_own_rate(clock):
    console = Terminal(file=io.StringIO())
    with RunProgress(console) as shown, shown.stage("embed") as stage:
        clock[0] = 100.0
        stage.begin(50, done=40, unit="images")
        clock[0] = 106.0
        stage.update(43)
    said = console.file.getvalue().splitlines()
    assert said[0] == "     embed  40 of 50 images were done before"
    assert said[1] == f"     embed  43 of 50 images, 0.5 images per second, 0:00:14 left; {MEMORY}"


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    with RunProgress(verbose=False) as shown:
        shown.plan(["list"], ["embed"])
        with shown.stage("embed") as stage:
            stage.begin(2, unit="images")
            stage.update(2)
            stage.log("a line")
        shown.log_as("lock")("another")
    assert capsys.readouterr() == ("", "")


# -- on a terminal -----------------------------------------------------------------------------------------------------


def test_the_display_has_all_stages_and_all_facts(clock):
    console = terminal()
    with RunProgress(console) as shown:
        shown.plan(["list"], ["embed", "heads"])
        with shown.stage("embed") as stage:
            stage.begin(200, unit="images")
            clock[0] = 10.0
            stage.update(50, rejected=3, mean_loss=-1.25)
            text = picture(shown).splitlines()
            assert text[0].split() == ["✓", "list", "was", "complete"]
            assert "embed" in text[1]
            assert "50 of 200 images, 5 images per second, 0:00:30 left" in text[1]
            assert text[2].split() == ["·", "heads"]
            assert text[3].strip() == "rejected 3, mean loss -1.25"
            assert text[4].strip() == f"0:00:10; {MEMORY}"
            clock[0] = 40.0
            stage.update(200, rejected=4)
    last = [" ".join(line.split()) for line in plain(console).rstrip().splitlines()[-4:]]
    assert last == ["✓ list was complete", "✓ embed done in 40.0 s, 200 of 200 images", "· heads", f"0:00:40; {MEMORY}"]
    assert "     embed  done in 40.0 s, rejected 4" in plain(console).splitlines()


def test_what_is_said_stays_above_the_display():
    """Lines of stages, of others on standard error, of loggers: whole, once, and before the last picture."""
    console = terminal()
    logger = logging.Logger("tests.progress")
    logger.addHandler(logging._StderrHandler())  # as Ray's own
    with RunProgress(console) as shown:
        shown.plan([], ["heads", "consensus"])
        with shown.stage("heads") as stage:
            stage.log("WARNING: [red]2 of 5 heads[/red] stopped")
            shown.log_as("cluster")("waiting for a GPU")
            print("(worker) a line of Ray", file=sys.stderr)
            logger.warning("a logger's line")
    text = plain(console)
    said = [
        "     heads  WARNING: [red]2 of 5 heads[/red] stopped",
        "   cluster  waiting for a GPU",
        "(worker) a line of Ray",
        "a logger's line",
    ]
    assert [text.splitlines().count(line) for line in said] == [1] * 4
    assert max(text.index(line) for line in said) < re.search(r"✓ heads +done in", text).start()
    assert sys.stderr is not None
    print("after", file=sys.stderr)
    assert "after" not in plain(console)


def test_a_stage_that_fails_is_marked():
    console = terminal()
    with pytest.raises(ValueError, match="no such thing"), RunProgress(console) as shown, shown.stage("heads"):
        raise ValueError("no such thing")
    assert re.search(r"✗ heads +failed in 0.0 s", plain(console))
    assert console.file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_terminal_that_knows_only_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Terminal(force_terminal=True, force_interactive=True, file=stream, width=80, color_system=None)
    with RunProgress(console) as shown:
        shown.plan(["list"], ["embed"])
        with shown.stage("embed") as stage:
            stage.begin(4, unit="images")
            stage.update(4)
    stream.flush()
    assert "+ embed" in stream.buffer.getvalue().decode("ascii")


def test_parts_of_the_work_count_through():
    """A resumed part moves on; only the first begins the whole."""
    seen = []

    class Whole(Progress):
        def begin(self, total, *, done=0, unit):
            seen.append((total, done, unit))

        def update(self, done, **facts):
            seen.append(done)

    for number, done in enumerate((10, 4)):
        part = PartProgress(Whole(), number, 2)
        part.begin(10, done=done, unit="images")
        part.update(10)
    assert seen == [(20, 10, "images"), 10, 14, 20]
