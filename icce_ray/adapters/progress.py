"""What a person sees while a run works: one rich display of all its stages on a terminal, plain lines elsewhere.

Both say the same: how much of a stage is done, how fast, how long it will take, the facts it reports, and memory.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from rich.live import Live

from icce_ray.adapters.progress_rows import StageRow, frame, memory
from icce_ray.adapters.terminal import Terminal

#: Where there is no terminal, the first lines of a stage come this many seconds apart, later ones after a share of the
#: time that it has taken, up to the longest: a day of work is some 500 lines.
LINE_SECONDS, LINE_SHARE, LINE_LONGEST = 5.0, 0.02, 300.0
#: Pictures a second on a terminal.
PICTURES = 4


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


class Silent:
    """Reports nowhere."""

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Nothing."""

    def update(self, done: int, **facts: Any) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


@contextlib.contextmanager
def silent(stage: str) -> Iterator[StageProgress]:
    """In the place of `display`: shows nothing."""
    yield Silent()


@contextlib.contextmanager
def display(stage: str, console: Terminal | None = None) -> Iterator[StageProgress]:
    """Progress of work that is one stage."""
    with RunDisplay(console) as shown, shown(stage) as progress:
        yield progress


class RunDisplay:
    """Progress of all stages of a run on standard error; a context manager, and called it gives that of one stage.

    On a terminal the stages stand below what is said, and stay there at the end. What others print meanwhile, to
    standard error or by a logger, comes above them too.
    """

    def __init__(self, console: Terminal | None = None, *, verbose: bool = True) -> None:
        self.console = console or Terminal(stderr=True)
        self.verbose = verbose
        self.rows: dict[str, StageRow] = {}
        self._live: Live | None = None
        self._started = time.monotonic()

    def __enter__(self) -> RunDisplay:
        """Nothing is drawn before there is a stage."""
        self._started = time.monotonic()
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave the last picture."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def plan(self, complete: Sequence[str], todo: Sequence[str]) -> None:
        """Which stages are complete, and which will come."""
        for stage in complete:
            self.rows.setdefault(stage, StageRow(stage, state="complete"))
        for stage in todo:
            self.rows.setdefault(stage, StageRow(stage))
        self._draw()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[StageProgress]:
        """Progress of one stage, while the block works."""
        with _noted(stage):
            if self.verbose:
                with self._row(stage) as progress:
                    yield progress
            else:
                yield Silent()

    @contextlib.contextmanager
    def _row(self, stage: str) -> Iterator[StageProgress]:
        row = self.rows[stage] = StageRow(stage)
        row.begin_stage()
        self._draw()
        shown = _Shown(row, self)
        try:
            yield shown
        except BaseException:
            row.end("failed")
            raise
        row.end("done")
        if self._live is None:
            shown.say(row.last_line())

    def says(self, what: str) -> Callable[[str], None]:
        """Shows lines of something that is no stage."""
        return lambda text: self.say(what, text)

    def say(self, what: str, text: str) -> None:
        """One line for the person, with what it is about in front."""
        if self.verbose:
            self.console.say(f"{what:>10}  {text}")

    def _draw(self) -> None:
        """Start the picture, where it can be one."""
        if self.verbose and self._live is None and self.rows and self.console.is_terminal:
            self._live = Live(
                get_renderable=lambda: frame(list(self.rows.values()), time.monotonic() - self._started),
                console=self.console,
                refresh_per_second=PICTURES,
                # Where standard output goes elsewhere it is somebody's data.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()

    @property
    def live(self) -> bool:
        """Whether there is a picture: then nobody needs lines."""
        return self._live is not None


@contextlib.contextmanager
def _noted(stage: str) -> Iterator[None]:
    """An interrupt says which stage it ended."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"stage {stage}")
        raise


class _Shown:
    """Progress of one stage of a run."""

    def __init__(self, row: StageRow, display: RunDisplay) -> None:
        self._row, self._display = row, display
        self._last_line = time.monotonic()
        self._turn = threading.Lock()

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """Work of `total` units starts, `done` of them left by an earlier run."""
        self._row.begin(total, done, unit)
        if done:
            self.say(f"{done:,} of {total:,} {unit} were done before")

    def update(self, done: int, **facts: Any) -> None:
        """`done` units in all are finished."""
        self._row.update(done, facts)
        if self._display.live:
            return
        now = time.monotonic()
        with self._turn:
            pause = min(LINE_LONGEST, max(LINE_SECONDS, LINE_SHARE * self._row.seconds(now)))
            if now - self._last_line < pause:
                return
            self._last_line = now
        self.say(f"{self._row.line(now)}; {memory()}")

    def say(self, text: str) -> None:
        """One line for the person."""
        self._display.say(self._row.name, text)
