"""What a person sees: one display of the stages on a terminal, plain lines in a log, and the same facts in both."""

import io
import logging
import re
import sys

import pytest

from icce_ray.adapters import progress, progress_rows
from icce_ray.adapters.progress import RunDisplay, display
from icce_ray.adapters.progress_rows import duration
from icce_ray.adapters.terminal import Terminal

MEMORY = "memory: driver 0.5 GiB, node 3.0 of 8.0 GiB"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds that pass only where a test says so; memory that does not change."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "memory", lambda: MEMORY)
    monkeypatch.setattr(progress_rows, "memory", lambda: MEMORY)
    return now


def terminal(width=100):
    return Terminal(force_terminal=True, file=io.StringIO(), width=width, height=40, color_system=None)


def plain(console):
    """What was written, without the terminal's orders; carriage returns as ends of lines."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n")


def picture(shown):
    """The display as it stands."""
    console = terminal()
    console.print(shown._live.get_renderable())
    return plain(console)


def lines_of(hours, clock):
    """The lines of a stage that reports every second for so long."""
    stream = io.StringIO()
    with display("embed", Terminal(file=stream)) as stage:
        total = int(hours * 3600)
        stage.begin(total, unit="images")
        for second in range(1, total + 1):
            clock[0] = second
            stage.update(second, rejected=0)
    return stream.getvalue().splitlines()


# -- in a log ----------------------------------------------------------------------------------------------------------


def test_lines_are_plain_and_say_how_long_it_takes(clock):
    lines = lines_of(0.01, clock)
    assert lines[0] == f"     embed  5 of 36 images, 1 a second, 31 s left, rejected 0; {MEMORY}"
    assert lines[-1] == "     embed  done in 36.0 s, rejected 0"
    assert len(lines) == 8


def test_a_day_of_work_is_no_flood(clock):
    assert 300 < len(lines_of(24, clock)) < 600


def test_a_resumed_stage_says_so_and_counts_its_own_rate(clock):
    console = Terminal(file=io.StringIO())
    with display("embed", console) as stage:
        clock[0] = 100.0
        stage.begin(50, done=40, unit="images")
        clock[0] = 106.0
        stage.update(43)
    said = console.file.getvalue().splitlines()
    assert said[0] == "     embed  40 of 50 images were done before"
    assert said[1] == f"     embed  43 of 50 images, 0.5 a second, 14 s left; {MEMORY}"


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    with RunDisplay(verbose=False) as shown:
        shown.plan(["list"], ["embed"])
        with shown("embed") as stage:
            stage.begin(2, unit="images")
            stage.update(2)
            stage.say("a line")
        shown.says("lock")("another")
    assert capsys.readouterr() == ("", "")


# -- on a terminal -----------------------------------------------------------------------------------------------------


def test_the_display_has_all_stages_and_all_facts(clock):
    console = terminal()
    with RunDisplay(console) as shown:
        shown.plan(["list"], ["embed", "heads"])
        with shown("embed") as stage:
            stage.begin(200, unit="images")
            clock[0] = 10.0
            stage.update(50, rejected=3, mean_loss=-1.25)
            text = picture(shown).splitlines()
            assert text[0].split() == ["✓", "list", "was", "complete"]
            assert "embed" in text[1]
            assert "50 of 200 images 5 a second, 30 s left" in text[1]
            assert text[2].strip() == "rejected 3, mean loss -1.25"
            assert text[3].split() == ["·", "heads"]
            assert text[4].strip() == f"10 s; {MEMORY}"
            clock[0] = 40.0
            stage.update(200, rejected=4)
    last = [" ".join(line.split()) for line in plain(console).rstrip().splitlines()[-4:]]
    assert last == ["✓ embed done in 40.0 s 200 of 200 images", "rejected 4", "· heads", f"40 s; {MEMORY}"]


def test_both_forms_carry_the_same_facts(clock):
    """Every fact of the log's line is in the picture of the same moment."""
    found = []
    for console in (terminal(160), Terminal(file=io.StringIO(), width=160)):
        clock[0] = 0.0
        with RunDisplay(console) as shown, shown("embed") as stage:
            stage.begin(36, unit="images")
            clock[0] = 6.0
            stage.update(6, rejected=1, now="a shard")
            found.append(picture(shown) if shown.live else console.file.getvalue())
    on_terminal, in_log = found
    facts = re.split(r"[,;] ", in_log.strip().split("  ", 1)[1])
    assert facts == ["6 of 36 images", "1 a second", "30 s left", "rejected 1", "now a shard", "memory: driver 0.5 GiB",
                     "node 3.0 of 8.0 GiB"]  # fmt: skip
    assert [fact for fact in facts if fact not in on_terminal] == []


def test_what_is_said_stays_above_the_display():
    """Lines of stages, of others on standard error, of loggers: whole, once, and before the last picture."""
    console = terminal()
    logger = logging.Logger("tests.progress")
    logger.addHandler(logging._StderrHandler())  # as Ray's own
    with RunDisplay(console) as shown:
        shown.plan([], ["heads", "consensus"])
        with shown("heads") as stage:
            stage.say("WARNING: [red]2 of 5 heads[/red] stopped")
            shown.says("cluster")("waiting for a GPU")
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
    assert max(text.index(line) for line in said) < text.rindex("heads       done in")
    assert sys.stderr is not None
    print("after", file=sys.stderr)
    assert "after" not in plain(console)


def test_a_stage_that_fails_is_marked():
    console = terminal()
    with pytest.raises(ValueError, match="no such thing"), RunDisplay(console) as shown, shown("heads"):
        raise ValueError("no such thing")
    assert "✗ heads       failed in 0.0 s" in plain(console)
    assert console.file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_terminal_that_knows_only_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Terminal(force_terminal=True, file=stream, width=80, color_system=None)
    with RunDisplay(console) as shown:
        shown.plan(["list"], ["embed"])
        with shown("embed") as stage:
            stage.begin(4, unit="images")
            stage.update(4)
    stream.flush()
    assert "+ embed" in stream.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2:05"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert duration(seconds) == text
