"""One stage in figures, and all of them as a picture for a terminal."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import psutil
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from icce_ray.adapters.terminal import visible

State = Literal["waiting", "working", "done", "complete", "failed"]
_MARKS = {"waiting": ("·", "dim"), "done": ("✓", "green"), "complete": ("✓", "dim"), "failed": ("✗", "red")}
_ASCII = {"waiting": ".", "done": "+", "complete": "+", "failed": "x"}
_GIB = 2**30


class StageRow:
    """What is known of one stage."""

    def __init__(self, name: str, state: State = "waiting") -> None:
        self.name, self.state = name, state
        self.total, self.done, self.unit = 0, 0, ""
        self.facts: Mapping[str, Any] = {}
        self.took = 0.0
        self._first = 0
        self._started = self._begun = 0.0
        self.spinners = Spinner("dots"), Spinner("line")

    def begin_stage(self) -> None:
        """The stage is entered."""
        self.state, self._started = "working", time.monotonic()
        self._begun = self._started

    def begin(self, total: int, done: int, unit: str) -> None:
        """Its work of `total` units starts, `done` of which were there."""
        self.total, self._first, self.done, self.unit = total, done, done, unit
        self._begun = time.monotonic()

    def update(self, done: int, facts: Mapping[str, Any]) -> None:
        """`done` units are finished."""
        self.done, self.facts = done, facts

    def end(self, state: State) -> None:
        """The stage is left."""
        self.state, self.took = state, time.monotonic() - self._started

    def seconds(self, now: float) -> float:
        """Since it was entered."""
        return now - self._started

    def count(self) -> str:
        """How much is done; nothing of work that is not counted."""
        if not self.unit:
            return ""
        return f"{self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}"

    def speed(self, now: float) -> str:
        """Rate and time left, as far as they are known."""
        rate = (self.done - self._first) / max(now - self._begun, 1e-9)
        if rate <= 0:
            return ""
        left = self.total - self.done
        return f"{rate:.3g} a second" + (f", {duration(left / rate)} left" if left > 0 else "")

    def told(self) -> str:
        """The facts it reports."""
        return visible(", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in self.facts.items()))

    def line(self, now: float) -> str:
        """All of this in plain text."""
        return ", ".join(filter(None, (self.count(), self.speed(now), self.told())))

    def last_line(self) -> str:
        """What is left to say at its end."""
        return ", ".join(filter(None, (f"done in {self.took:.1f} s", self.told())))


def frame(rows: Iterable[StageRow], seconds: float) -> RenderableType:
    """A line a stage, a second one for the facts of those that work or have ended, and one about memory."""
    now = time.monotonic()
    parts: list[RenderableType] = []
    for row in rows:
        parts.append(_head(row, now))
        facts = row.told()
        if facts and row.state != "complete":
            parts.append(Padding(Text(facts, style="" if row.state == "working" else "dim"), (0, 0, 0, 14)))
    return Group(*parts, Text(f"  {duration(seconds)}; {memory()}", style="dim"))


def _head(row: StageRow, now: float) -> Table:
    grid = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [_Mark(row), Text(f"{row.name:<11}", style="bold" if row.state == "working" else "")]
    if row.state == "working":
        bar = ProgressBar(total=row.total or None, completed=row.done, width=10, pulse=not row.total)
        cells += [bar, Text(row.count()), Text(row.speed(now), style="cyan")]
    elif row.state == "complete":
        cells.append(Text("was complete", style="dim"))
    elif row.state in ("done", "failed"):
        cells.append(Text(f"{row.state} in {row.took:.1f} s", style="red" if row.state == "failed" else ""))
        cells.append(Text(row.count(), style="dim"))
    grid.add_column(width=1)
    for _ in cells[1:]:
        grid.add_column()
    grid.add_row(*cells)
    return grid


class _Mark:
    """The sign of a row's state, in what the terminal can show."""

    def __init__(self, row: StageRow) -> None:
        self.row = row

    def __rich_console__(self, console: Any, options: Any) -> Iterable[RenderableType]:
        if self.row.state == "working":
            yield self.row.spinners[options.ascii_only]
            return
        sign, style = _MARKS[self.row.state]
        yield Text(_ASCII[self.row.state] if options.ascii_only else sign, style=style)


@functools.cache
def _process() -> psutil.Process:
    return psutil.Process()


def memory() -> str:
    """What this process and its machine hold."""
    node = psutil.virtual_memory()
    own, used, total = (size / _GIB for size in (_process().memory_info().rss, node.total - node.available, node.total))
    return f"memory: driver {own:.1f} GiB, node {used:.1f} of {total:.1f} GiB"


def duration(seconds: float) -> str:
    """As `31 s`, `2:05` or `1:02:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
