"""What a person sees while a run works: a rich display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

#: Where there is no terminal, the first lines of a stage come this many seconds apart, later ones after a share of the
#: time that it has taken, up to the longest: a day of work is some 500 lines.
LINE_SECONDS, LINE_SHARE, LINE_LONGEST = 5.0, 0.02, 300.0


class StageProgress(Protocol):
    """What a stage reports to: how much of its work is done, and facts worth showing beside it."""

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units starts, `done` of them left by an earlier run."""
        ...

    def update(self, done: int, **facts: Any) -> None:
        """`done` units in all are finished."""
        ...

    def say(self, text: str) -> None:
        """One line for the person."""
        ...


@contextlib.contextmanager
def silent(stage: str) -> Iterator[StageProgress]:
    """In the place of `Display`: shows nothing."""
    yield Silent()


class Silent:
    """Reports nowhere."""

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Nothing."""

    def update(self, done: int, **facts: Any) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Display:
    """Progress of one stage on standard error; a context manager that ends with the stage's line."""

    def __init__(self, stage: str, console: Console | None = None) -> None:
        self.stage = stage
        self.console = console or Console(stderr=True)
        self._started = self._last_line = time.monotonic()
        self._total, self._first, self._done, self._unit = 0, 0, 0, ""
        self._facts = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Display:
        """Start the display on a terminal."""
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=None, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away and leave one line."""
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            self._line(f"done in {time.monotonic() - self._started:.1f} s")

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units starts, `done` of them left by an earlier run."""
        self._total, self._first, self._done, self._unit = total, done, done, unit
        if done:
            self.say(f"{done:,} of {total:,} {unit} were done before")
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=done)

    def update(self, done: int, **facts: Any) -> None:
        """`done` units in all are finished."""
        self._done = done
        self._facts = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in facts.items())
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=self._facts)
        elif now - self._last_line >= min(LINE_LONGEST, max(LINE_SECONDS, LINE_SHARE * (now - self._started))):
            self._last_line = now
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = f", {(self._total - done) / rate:.0f} s left" if rate else ""
            self._line(f"{done:,} of {self._total:,} {self._unit}, {rate:.3g} a second{left}")

    def say(self, text: str) -> None:
        """One line for the person."""
        self.console.print(f"{self.stage:>10}  {text}", highlight=False, markup=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        self.say(f"{text}{', ' if self._facts else ''}{self._facts}")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
