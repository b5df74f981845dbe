"""Figures of a run while it works: `metrics.jsonl`, and the trackers TensorBoard, MLflow and Weights & Biases.

`metrics.jsonl` has every event and is what trackers are given: what a killed run had logged, or what `--redo` takes
back, stands there. One thread of the driver writes and sends everything; who logs a figure waits for nothing.
"""

from __future__ import annotations

import json
import math
import re
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import FiniteFloat

from icce_ray.documents import DocumentError, parse_json, shaped
from icce_ray.io.storage import Storage, StorageError
from icce_ray.store import RunError

#: Seconds between two writings: to a local disk, and to an object store, which cannot append and takes the whole file.
LOCAL_SECONDS, OBJECT_SECONDS = 5.0, 30.0
#: Seconds that the end of a run waits for trackers that do not answer.
CLOSE_SECONDS = 60.0
#: Numbers by name, None in the place of what is not a number: JSON has no NaN.
Figures = Mapping[str, FiniteFloat | None]
_UNUSUAL = re.compile(r"[^\w./-]+")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line: `begin` of a driver's work, a `step` of a stage, or the `summary` of a stage at its end."""

    time: datetime
    stage: str
    event: str
    step: int
    """Units of work done, of a `step`; else how many events of this kind there were before."""
    figures: Figures
    id: str | None = None
    """Only of `begin`: the run as trackers know it."""
    to: tuple[str, ...] = ()
    """Only of `begin`: trackers that were given what follows."""

    def encoded(self) -> bytes:
        """The line with its end."""
        time = self.time.astimezone(UTC).isoformat(timespec="milliseconds")
        content = {"time": time, "stage": self.stage, "event": self.event, "step": self.step}
        content |= {"id": self.id, "to": self.to} if self.id is not None else {}
        content["figures"] = self.figures
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def tagged(self) -> list[tuple[str, float]]:
        """(name among all stages, value) of each number: `heads/mean_loss`, `consensus/summary/anmi`."""
        kind = "" if self.event == "step" else f"{self.event}/"
        return [(f"{self.stage}/{kind}{name}", value) for name, value in self.figures.items() if value is not None]


def read_events(storage: Storage, path: str) -> list[Event]:
    """All events of a file, none if it is not there; a last line without an end was cut by a kill and is left out.

    Raises StorageError for a file that others wrote.
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return []
    try:
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        return shaped(list[Event], [parse_json(line) for line in lines if line.strip()])
    except DocumentError as error:
        raise StorageError(
            f"{storage.uri(path)} is damaged ({error}); delete it: what was logged before is lost, results are not"
        ) from error


def scalars(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """The numbers among a stage's figures, by names such as `scores/mcla`.

    A list of numbers gives its mean, least and greatest, any other list its length; text and truth values are left out.
    """
    numbers: dict[str, float | None] = {}
    for key, value in figures.items():
        name = _UNUSUAL.sub("_", f"{prefix}{key}")
        if isinstance(value, Mapping):
            numbers |= scalars(value, f"{name}/")
        elif isinstance(value, (list, tuple)):
            if value and all(map(_is_number, value)):
                mean = math.fsum(value) / len(value)
                numbers |= scalars({"mean": mean, "min": min(value), "max": max(value)}, f"{name}/")
            else:
                numbers[name] = len(value)
        elif _is_number(value):
            numbers[name] = value if math.isfinite(value) else None
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is given of the run itself."""

    id: str
    """Of this run since its last `--redo`, the same each time it is started."""
    name: str
    params: Mapping[str, Any]
    """Settings by dotted names."""


class TrackingError(RuntimeError):
    """A tracker that cannot be reached; the message says which, why and what to do."""


class Tracker(Protocol):
    """One tracker. `open` is called by the main thread before any work, the rest by one other thread."""

    def open(self, run: RunInfo, events: Sequence[Event]) -> None:
        """Take up the run; `events` are all so far, of any driver, and will grow. Raises TrackingError."""
        ...

    def log(self, events: Sequence[Event]) -> None:
        """New events. What it raises ends the tracker, not the run."""
        ...

    def close(self, *, failed: bool) -> None:
        """The driver ends; the run may go on another time."""
        ...


class EventLog:
    """Writes the events of one run to its file and to trackers; a context manager, of one driver at a time.

    Args:
        storage: where the file lies.
        path: its name, `metrics.jsonl`.
        trackers: by name.
        name: of the run.
        params: settings of the run by dotted names.
        forget: stages that are done again: their events go, and trackers that cannot forget see a new run.
        check: raises RunError once another driver has the run: then nothing is written any more.
        log: shows one line: trackers that fail do not end a run, but are named.

    Entering raises TrackingError for a tracker that cannot be reached, StorageError for a damaged file.
    """

    def __init__(
        self,
        storage: Storage,
        path: str,
        trackers: Mapping[str, Tracker],
        *,
        name: str,
        params: Mapping[str, Any],
        forget: Collection[str] = (),
        check: Callable[[], None] = lambda: None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.storage, self.path, self.trackers = storage, path, dict(trackers)
        self._name, self._params, self._forget = name, params, forget
        self._check, self._log = check, log
        self._lock, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> EventLog:
        """Read what was logged before, and open the trackers."""
        self._events = read_events(self.storage, self.path)
        if self._forget:
            self._events = [one for one in self._events if one.stage not in self._forget and one.event != "begin"]
        begun = [one for one in self._events if one.event == "begin"]
        run = RunInfo(begun[-1].id if begun and begun[-1].id else uuid.uuid4().hex[:16], self._name, self._params)
        self._seen = {(one.stage, one.event, one.step) for one in self._events}
        self._last = {(one.stage, one.event): one for one in self._events}
        self._new: list[Event] = []
        self._appends = self._failed = False
        self._error: Exception | None = None
        opened: list[Tracker] = []
        try:
            for tracker in self.trackers.values():
                tracker.open(run, self._events)
                opened.append(tracker)
        except BaseException:
            for tracker in opened:
                tracker.close(failed=True)
            raise
        self.add("run", "begin", len(begun), {}, id=run.id, to=tuple(self.trackers))
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Write and send the rest. Raises TrackingError if events are not in the file, unless the block failed."""
        self._failed = kind is not None
        self._end.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._log(f"WARNING: tracking, {', '.join(self.trackers)}: no answer in {CLOSE_SECONDS:.0f} s, not waiting")
        elif self._error is not None and kind is None:
            raise TrackingError(
                f"the last figures are not in {self.storage.uri(self.path)}: {self._error}; results are complete, and "
                "the same command writes the figures of each stage there"
            ) from self._error

    def last(self, stage: str, event: str) -> Event | None:
        """The last such event, of this driver or one before."""
        return self._last.get((stage, event))

    def add(
        self, stage: str, event: str, step: int, figures: Figures, *, at: datetime | None = None, **begin: Any
    ) -> None:
        """Log an event of now or of `at`, unless it is there; see `Event` for the rest."""
        with self._lock:
            if (stage, event, step) not in self._seen:
                at = at or datetime.now(UTC)
                new = Event(time=at, stage=stage, event=event, step=step, figures=figures, **begin)
                self._seen.add((stage, event, step))
                self._last[stage, event] = new
                self._new.append(new)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        pause = 0.0
        with suppress(RunError):  # another driver has the run
            while not self._end.wait(pause):
                self._flush()
                pause = LOCAL_SECONDS if self.storage.local else OBJECT_SECONDS
            self._flush()
        for name, tracker in self.trackers.items():
            self._try(name, lambda tracker=tracker: tracker.close(failed=self._failed))

    def _flush(self) -> None:
        self._check()
        with self._lock:
            new, self._new = self._new, []
        self._events += new
        if new or self._error:
            self._error = self._try(self.path, lambda: self._write(new), quiet=self._error is not None)
        for name, tracker in list(self.trackers.items()):
            if new and self._try(name, lambda tracker=tracker: tracker.log(new)):
                del self.trackers[name]  # the next start of the run sends it what it missed, as far as it can

    def _write(self, new: Sequence[Event]) -> None:
        """Append on a local disk, after the file was written whole; an object store cannot append."""
        appends, self._appends = self._appends, False  # if this fails, the next time writes all again
        if appends:
            with open(self.storage.full_path(self.path), "ab") as file:
                file.write(b"".join(event.encoded() for event in new))
        else:
            self.storage.write_bytes(self.path, b"".join(event.encoded() for event in self._events))
        self._appends = self.storage.local

    def _try(self, name: str, call: Callable[[], None], *, quiet: bool = False) -> Exception | None:
        """Call it; why it failed, which is logged."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run goes on
            kind = "" if isinstance(error, (TrackingError, OSError)) else f"{type(error).__name__}: "
            if not quiet:
                self._log(f"WARNING: tracking, {name}: {kind}{error}")
            return error
        return None
