"""Progress of a run on standard error: one rich display of all its stages on a terminal, plain lines elsewhere.

Both have the same facts: how much of a stage is done, how fast, the time left, what the stage reports, and memory.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psutil
from rich import progress as rich_progress
from rich.console import RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from icce_ray.terminal import Terminal, visible

#: Without a terminal, the first lines of a stage come this many seconds apart, later ones after a share of the time
#: that it has taken, up to the longest: a day of work is some 500 lines.
LINE_SECONDS, LINE_SHARE, LINE_LONGEST = 5.0, 0.02, 300.0
REFRESH_PER_SECOND = 4
#: Signs of stages by state, in Unicode and in ASCII; a running one has a spinner.
_SIGNS = {"waiting": "·.", "complete": "✓+", "done": "✓+", "failed": "✗x"}
_STYLES = {"waiting": "dim", "complete": "dim", "done": "green", "failed": "red"}
_GIB = 2**30


class Progress:
    """What a stage reports to: how much of its work is done, and facts worth showing. This base shows nothing."""

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units starts, `done` of them left by an earlier run; 0 is a total that is not known yet."""

    def update(self, done: int, **facts: Any) -> None:
        """`done` units in all are finished."""

    def log(self, text: str) -> None:
        """One line of text."""


@contextlib.contextmanager
def stage_progress(stage: str, *, verbose: bool = True) -> Iterator[Progress]:
    """Progress of work that is one stage."""
    with RunProgress(verbose=verbose) as run, run.stage(stage) as progress:
        yield progress


class PartProgress(Progress):
    """Progress of one of several equal parts of the work, which come one after the other."""

    def __init__(self, whole: Progress, part: int, parts: int) -> None:
        self._whole, self._part, self._parts, self._before = whole, part, parts, 0

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units in this part; with the first part the whole begins."""
        self._before = self._part * total
        if self._part == 0:
            self._whole.begin(self._parts * total, done=done, unit=unit)
        elif done:
            self.update(done)

    def update(self, done: int, **facts: Any) -> None:
        """`done` units of this part."""
        self._whole.update(self._before + done, **facts)

    def log(self, text: str) -> None:
        """One line of text."""
        self._whole.log(text)


class RunProgress:
    """Progress of all stages of a run; a context manager.

    On a terminal the stages stand below what is logged, and stay there at the end. What others print meanwhile, to
    standard error or by a logger, comes above them too.
    """

    def __init__(self, console: Terminal | None = None, *, verbose: bool = True) -> None:
        self.console = console or Terminal(stderr=True)
        self.verbose = verbose
        self.display = _Display(self.console, enabled=verbose and self.console.is_interactive)

    def __enter__(self) -> RunProgress:
        """Nothing is drawn before there is a stage."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave the display as it is."""
        self.display.stop()

    def plan(self, complete: Sequence[str], todo: Sequence[str]) -> None:
        """Show which stages are complete, and which will come."""
        for state, stages in (("complete", complete), ("waiting", todo)):
            for stage in stages:
                self.display.row(stage, state)
        self.display.start()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Progress of one stage, while the block works. An interrupt is noted with the stage that it ended."""
        started, state = time.monotonic(), "failed"
        row = self.display.row(name, "running")
        self.display.start()
        progress = _StageProgress(self, row) if self.verbose else Progress()
        try:
            yield progress
            state = "done"
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"stage {name}")
            raise
        finally:
            self.display.update(row.id, state=state, seconds=time.monotonic() - started)
        progress.log(_joined(f"done in {row.fields['seconds']:.1f} s", _facts(row)))

    def log(self, name: str, text: str) -> None:
        """One line, with what it is about in front."""
        if self.verbose:
            self.console.print_line(f"{name:>10}  {text}")

    def log_as(self, name: str) -> Callable[[str], None]:
        """Logs lines of something that is no stage."""
        return functools.partial(self.log, name)


class _StageProgress(Progress):
    """Progress of one stage of a run: its row of the display, or lines."""

    def __init__(self, run: RunProgress, row: rich_progress.Task) -> None:
        self._run, self._row = run, row
        self._started = self._last_line = time.monotonic()

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        self._run.display.begin(self._row.id, total, done, unit)
        if done:
            self.log(f"{done:,} of {total:,} {unit} were done before")

    def update(self, done: int, **facts: Any) -> None:
        display, now = self._run.display, time.monotonic()
        display.update(self._row.id, completed=done, facts=facts)
        pause = min(LINE_LONGEST, max(LINE_SECONDS, LINE_SHARE * (now - self._started)))
        if display.disable and now - self._last_line >= pause:
            self._last_line = now
            self.log(f"{_joined(_count(self._row), _speed(self._row), _facts(self._row))}; {memory()}")

    def log(self, text: str) -> None:
        self._run.log(self._row.description, text)


class _Display(rich_progress.Progress):
    """Rows of stages, the facts of those that run, and memory. Keeps the figures also where it draws nothing."""

    def __init__(self, console: Terminal, *, enabled: bool) -> None:
        self._started = time.monotonic()
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="progress.spinner")
        super().__init__(
            console=console,
            disable=not enabled,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),  # where it goes elsewhere it is somebody's data
            get_time=time.monotonic,
            speed_estimate_period=math.inf,  # of the last 1,000 updates, however slow they are
        )

    def row(self, stage: str, state: str) -> rich_progress.Task:
        """The row of a stage, which is added if it is not there, with its new state."""
        for task in self.tasks:
            if task.description == stage:
                task.fields["state"] = state
                return task
        self.add_task(stage, start=False, total=None, state=state, facts={}, unit="")
        return self.tasks[-1]

    def begin(self, row: rich_progress.TaskID, total: int, done: int, unit: str) -> None:
        """Count from `done` to `total`; the time before is no part of the rate."""
        self.reset(row, total=total or None, completed=done, state="running", facts={}, unit=unit)
        self.advance(row, 0)  # the rate counts from here

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        table, facts = Table.grid(padding=(0, 1)), []
        for task in self.tasks:
            state = task.fields["state"]
            if state == "running":
                bar = ProgressBar(task.total, task.completed, width=10)
                table.add_row(self._spinner, Text(f"{task.description:<11}", "bold"), bar, _status(task))
                facts += [Padding(Text(_facts(task)), (0, 0, 0, 14))] if task.fields["facts"] else []
            else:
                sign = _SIGNS[state][self.console.options.ascii_only]
                table.add_row(Text(sign, _STYLES[state]), f"{task.description:<11}", "", _status(task))
        memory_line = Text(f"  {_duration(time.monotonic() - self._started)}; {memory()}", style="dim")
        yield from (table, *facts, memory_line)


def _status(task: rich_progress.Task) -> Text:
    state = task.fields["state"]
    if state == "running":
        return Text(_joined(_count(task), _speed(task)))
    if state in ("done", "failed"):
        return Text(_joined(f"{state} in {task.fields['seconds']:.1f} s", _count(task)), "red" * (state == "failed"))
    return Text("was complete" * (state == "complete"), "dim")


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _count(task: rich_progress.Task) -> str:
    """How much is done; nothing of work that is not counted."""
    unit = task.fields["unit"]
    total = f" of {task.total:,.0f}" if task.total else ""
    return f"{task.completed:,.0f}{total} {unit}" if unit else ""


def _speed(task: rich_progress.Task) -> str:
    """Rate and time left, as far as they are known."""
    if not task.speed:
        return ""
    left = f", {_duration(task.time_remaining)} left" if task.time_remaining else ""
    return f"{task.speed:.3g} {task.fields['unit']} per second{left}"


def _facts(task: rich_progress.Task) -> str:
    facts: Mapping[str, Any] = task.fields["facts"]
    return visible(", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in facts.items()))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def memory() -> str:
    """What this process and its machine hold."""
    node = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    own, used, total = (size / _GIB for size in (own, node.total - node.available, node.total))
    return f"memory: driver {own:.1f} GiB, node {used:.1f} of {total:.1f} GiB"
