"""The way of figures from who works to `metrics.jsonl` and to the trackers, by a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from icce_ray.adapters.tracking.lines import Line, read_lines
from icce_ray.adapters.tracking.sinks import RunNote, Sink, TrackingError
from icce_ray.io.storage import Storage

#: `metrics.jsonl` is written whole, as no object store appends: so many seconds apart at first, later after a share
#: of the time that has passed, up to the longest.
FLUSH_SECONDS, FLUSH_SHARE, FLUSH_LONGEST = 5.0, 0.02, 60.0
#: Seconds that the end of a run waits for trackers that do not answer.
CLOSE_SECONDS = 60.0

_NOW, _END = object(), object()


class Tracker:
    """Tells the figures of one run; a context manager, of one driver at a time.

    Args:
        storage: where the file lies.
        path: its name, `metrics.jsonl`.
        sinks: trackers by name.
        name: of the run, for people.
        params: settings of the run by dotted names.
        forget: stages that are done again: their lines go, and trackers that cannot forget see a new run.
        may_write: asked before each writing; False once another driver has the run.
        say: shows one line to the person: trackers that fail are no reason to end a run, but are named.

    Entering raises TrackingError for a tracker that cannot be told, StorageError for a damaged file.
    """

    def __init__(
        self,
        storage: Storage,
        path: str,
        sinks: Mapping[str, Sink],
        *,
        name: str,
        params: Mapping[str, Any],
        forget: Collection[str] = (),
        may_write: Callable[[], bool] = lambda: True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.storage, self.path, self.sinks = storage, path, dict(sinks)
        self._name, self._params, self._forget = name, params, forget
        self._may_write, self._say = may_write, say
        self._turn = threading.Lock()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __enter__(self) -> Tracker:
        """Read what was told before, and open the trackers."""
        before = read_lines(self.storage, self.path)
        if self._forget:
            before = [line for line in before if line.stage not in self._forget and line.event != "begin"]
        begun = [line for line in before if line.event == "begin"]
        known = begun[-1].id if begun else None
        run = RunNote(known or uuid.uuid4().hex[:16], self._name, self._params)
        self._told = {(line.stage, line.event, line.step) for line in before}
        self._last = {(line.stage, line.event): line for line in before}
        self._lines = before
        self._encoded = [line.encoded() for line in before]
        opened: list[Sink] = []
        try:
            for sink in self.sinks.values():
                sink.open(run, self._lines)
                opened.append(sink)
        except BaseException:
            for sink in opened:
                sink.close(failed=True)
            raise
        self._failed = False
        self._fault: Exception | None = None
        self._lost = False
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._guarded, name="tracking", daemon=True)
        self._thread.start()
        now, to = time.time(), tuple(self.sinks)
        self._put(Line(time=now, stage="run", event="begin", step=len(begun), figures={}, id=run.id, to=to))
        self._queue.put(_NOW)  # so that what is forgotten is gone before there is anything new
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write and send the rest. Raises TrackingError if lines are not in the file, unless the block failed."""
        self._failed = kind is not None
        self._queue.put(_END)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._say(f"WARNING: tracking, {', '.join(self.sinks)}: no answer in {CLOSE_SECONDS:.0f} s, not waiting")
        elif self._fault is not None and kind is None:
            raise TrackingError(
                f"the last figures are not in {self.storage.uri(self.path)}: {self._fault}; results are complete, and "
                "the same command writes the figures of each stage there"
            ) from self._fault

    def told(self, stage: str, event: str, step: int = 0) -> bool:
        """Whether there is such a line."""
        return (stage, event, step) in self._told

    def last(self, stage: str, event: str) -> Line | None:
        """The last such line that was told, by this driver or one before."""
        return self._last.get((stage, event))

    def step(self, stage: str, step: int, figures: Mapping[str, float | None], *, at: float | None = None) -> None:
        """Figures when `step` units of a stage's work were done, unless they were told before; `at` as `Line.time`."""
        self._put(Line(time=at or time.time(), stage=stage, event="step", step=step, figures=figures))

    def summary(
        self, stage: str, figures: Mapping[str, float | None], *, step: int = 0, at: float | None = None
    ) -> None:
        """Figures of a stage that is complete, unless they were told before; written at once."""
        self._put(Line(time=at or time.time(), stage=stage, event="summary", step=step, figures=figures))
        self._queue.put(_NOW)

    def _put(self, line: Line) -> None:
        key = (line.stage, line.event, line.step)
        with self._turn:
            if key in self._told:
                return
            self._told.add(key)
            self._last[line.stage, line.event] = line
        self._queue.put(line)

    # -- the thread --------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        try:
            self._work()
        except Exception as fault:  # noqa: BLE001 - the run goes on without; `__exit__` raises it where somebody sees it
            self._fault = fault
            self._say(f"WARNING: tracking has ended: {type(fault).__name__}: {fault}")

    def _work(self) -> None:
        fresh: list[Line] = []
        due, item = time.monotonic() + FLUSH_SECONDS, None
        while item is not _END:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()) if fresh else None)
            except queue.Empty:
                item = _NOW
            if isinstance(item, Line):
                fresh.append(item)
            if fresh and (not isinstance(item, Line) or time.monotonic() >= due):
                self._write(fresh)
                fresh = []
                passed = time.monotonic() - self._started
                due = time.monotonic() + min(FLUSH_LONGEST, max(FLUSH_SECONDS, FLUSH_SHARE * passed))
        for name, sink in self.sinks.items():
            self._tried(name, lambda sink=sink: sink.close(failed=self._failed))

    def _write(self, fresh: Sequence[Line]) -> None:
        self._lines += fresh
        self._encoded += [line.encoded() for line in fresh]
        # Where this fails the next time may do better: it is the whole file again.
        self._fault = self._tried(self.path, self._write_file)
        if self._lost:
            return
        for name, sink in list(self.sinks.items()):
            if self._tried(name, lambda sink=sink: sink.tell(fresh)):
                del self.sinks[name]  # the next start of the run tells it what it missed, as far as it can

    def _write_file(self) -> None:
        self._lost = not self._may_write()
        if not self._lost:
            self.storage.write_bytes(self.path, b"".join(self._encoded))

    def _tried(self, name: str, call: Callable[[], None]) -> Exception | None:
        """Why it failed, which the person is told."""
        try:
            call()
        except (TrackingError, OSError) as error:
            self._say(f"WARNING: tracking, {name}: {error}")
            return error
        return None
