"""One run, one process: `lock.json` at the root of a run's directory says who writes there.

It is written by compare-and-swap (`io.conditional`), so that of any number of processes exactly one gets it, and
renewed by its holder every 15 s. It ends in one of four ways:

- its holder removes it, also when it ends with an error;
- its holder was killed, and whoever comes next on the same machine sees that the process is gone;
- it expires: nothing of it has changed for 90 s *on the clock of who waits for it*. The time in the file only decides
  whether waiting makes sense (below 90 s an error says when it will), since clocks of two machines may differ;
- somebody takes it over (`--take-over`), whoever holds it. The former holder learns of it at its next renewal, which
  interrupts its main thread, or when it wants to complete a stage.

Reading a run needs no lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict

from icce_ray.documents import DocumentError, Moment, now, parse_json, shaped
from icce_ray.io import conditional
from icce_ray.io.process import Process
from icce_ray.io.storage import Storage
from icce_ray.io.stores import abort_uploads, check_access
from icce_ray.store.artifacts import LOCK_FILE
from icce_ray.store.markers import RunError

#: Seconds between two renewals, and without one until the lock expires.
RENEW_EVERY, EXPIRY = 15.0, 90.0
#: Seconds that workers of a killed driver may go on writing.
WORKERS_END = 5.0
#: Bytes: what a lock says is shorter than its longest host name and command.
MOST_BYTES = 1 << 16
#: Seconds by which the clocks of two machines differ at most; what was renewed later than that is of no clock.
CLOCKS_DIFFER = 3600.0
#: What a lost lock interrupts the main thread with: a signal of its own, whatever the process does with Ctrl-C.
LOST_SIGNAL = signal.SIGUSR2

_ATTEMPTS = 20


def _possible(process: Process) -> Process:
    if not 0 < process.pid < 2**31 or not 0 <= process.since_boot < 2**62:
        raise ValueError("a process has a number from 1 to 2^31 - 1, and started after its machine")
    return process


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What `lock.json` says: which process holds the run, and when it last said so. It holds no arguments."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    token: str
    command: str
    process: Annotated[Process, AfterValidator(_possible)]
    started: Moment
    """UTC, as `renewed`."""
    renewed: Moment
    renewals: int = 0

    @classmethod
    def new(cls, command: str) -> Holder:
        """This process, from now on."""
        started = now()
        return cls(token=uuid.uuid4().hex, command=command, process=Process.this(), started=started, renewed=started)

    @classmethod
    def read(cls, data: bytes) -> Holder:
        """From the file's content. Raises DocumentError if it is none, or of a version with other fields."""
        return shaped(cls, parse_json(data, most=MOST_BYTES))

    def data(self) -> bytes:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    def silent_for(self) -> float:
        """Seconds since the last renewal by the clocks of two machines, which may differ; at least 0.

        Without end for a renewal in a future that no clock is set to: it says nothing of whether the holder lives.
        """
        last = datetime.datetime.fromisoformat(self.renewed)
        silent = (datetime.datetime.now(datetime.UTC) - last).total_seconds()
        return max(0.0, silent) if silent > -CLOCKS_DIFFER else math.inf

    def state(self) -> str:
        """One line for a person who looks at the run."""
        if self.process.has_ended():
            return f"left by {self}, which is dead: the next command goes on"
        return f"in use by {self}; last sign of life {self.last_sign()}"

    def last_sign(self) -> str:
        """When the last renewal was, in words."""
        silent = self.silent_for()
        return f"at {self.renewed}, which is still to come" if math.isinf(silent) else f"{silent:.0f} s ago"

    def __str__(self) -> str:
        return f"{self.process}, `{self.command}`, since {self.started}"


def holder_of(root: str) -> Holder | None:
    """Who holds a run now, or held it when it was killed. Raises RunError if its lock cannot be understood."""
    uri = Storage(root).uri(LOCK_FILE)
    held = conditional.current(uri)
    return None if held is None else _holder(uri, held[0])


def _holder(uri: str, data: bytes) -> Holder:
    """Whom a lock names. Raises RunError, which names the file, if nobody can tell."""
    try:
        return Holder.read(data)
    except DocumentError as error:
        raise RunError(
            f"{uri} is damaged or of another version ({error}), so that nobody knows who holds the run; if it is "
            "nobody, give --take-over"
        ) from error


def _name(data: bytes) -> str:
    """Whom a lock names, where it need not be understood."""
    with contextlib.suppress(DocumentError):
        return str(Holder.read(data))
    return f"somebody whose {LOCK_FILE} cannot be understood"


class RunLock:
    """The right to write to a run, as a context manager.

    Args:
        root: directory or URI of the run; made if it is not there.
        command: what the holder does, for others to read.
        take_over: take the lock whoever holds it.
        log: takes a line for the user who waits.
        renew_every: seconds between two signs of life.
        expiry: seconds without one after which others may take the lock.

    Entering raises RunError if the run is in use, StorageError (OSError) where nothing can be written: it is also
    the first write to the run. Where there was a former holder, nothing that it started writes any more after `settle`
    seconds.
    """

    def __init__(
        self,
        root: str,
        *,
        command: str = "icce run",
        take_over: bool = False,
        log: Callable[[str], None] = lambda text: None,
        renew_every: float = RENEW_EVERY,
        expiry: float = EXPIRY,
    ) -> None:
        storage = Storage(root)
        self.root = storage.root
        self.settle = 0.0
        self._uri = storage.uri(LOCK_FILE)
        self._log, self._take_over, self._command = log, take_over, command
        self._renew_every, self._expiry = renew_every, expiry
        self._lost: str | None = None
        self._turn = threading.Lock()
        self._ending, self._over = threading.Lock(), threading.Event()
        self._on_main = False

    def __enter__(self) -> RunLock:
        """Take the lock and keep it."""
        check_access(self._uri)  # what is wrong with keys or endpoint, within seconds
        self._mine = Holder.new(self._command)
        self._version = self._acquire()
        self._confirmed = time.monotonic()
        self._on_main = threading.current_thread() is threading.main_thread()
        if self._on_main:
            self._handler = signal.signal(LOST_SIGNAL, self._stop)
        self._heart = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._heart.start()
        try:
            if self.settle:  # what the former holder was uploading is still paid for
                before, _, query = self._uri.rpartition(LOCK_FILE)
                abort_uploads(before + query)
            Storage(self.root).sweep()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back; of a lock that cannot be removed the user is informed. RunError if it was lost meanwhile."""
        try:
            self._release()
        except OSError as failure:
            self._log(f"the run's lock could not be removed and will expire in {self._expiry:.0f} s: {failure}")
        if self._lost is not None and kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)):
            raise RunError(self._lost) from None  # it was `_interrupt`

    def check(self) -> None:
        """Raise RunError if the run is no longer ours, and name who has it; StorageError if the store does not say."""
        self._renew()
        if self._lost is not None:
            raise RunError(self._lost)

    # -- taking ------------------------------------------------------------------------------------------------

    def _acquire(self) -> str:
        """Version of the lock, once it is ours."""
        for _ in range(_ATTEMPTS):
            held, reason = conditional.current(self._uri), ""
            if held is None:
                version = conditional.swap(self._uri, self._mine.data(), None)
            elif self._is_mine(held[0]):  # an earlier attempt arrived, although its answer did not
                version = held[1]
            else:
                reason = self._may_replace(*held)
                version = conditional.swap(self._uri, self._mine.data(), held[1]) if reason else None
            if version is not None:
                if reason:
                    self._log(f"{reason}: taken over")
                return version
            time.sleep(random.uniform(0.0, 0.2))
        raise RunError(
            f"{self.root} changed hands {_ATTEMPTS} times while its lock was asked for; other processes want it "
            "too: end them, or give another --out"
        )

    def _may_replace(self, data: bytes, version: str) -> str:
        """Why a lock that stands may be replaced, empty if it changed meanwhile. Raises RunError if it is in use."""
        # Whoever lives learns at the next renewal that the lock is lost.
        self.settle = self._renew_every + WORKERS_END
        if self._take_over:
            return f"the run was held by {_name(data)}, which --take-over ends"
        holder = _holder(self._uri, data)
        if holder.process.has_ended():
            self.settle = WORKERS_END
            return f"the run was left by {holder}, which is dead"
        silent = holder.silent_for()
        if silent < self._expiry:
            raise RunError(
                f"{self.root} is in use by {holder} (last sign of life {holder.last_sign()}); wait for it, or if you "
                f"know that it is dead, give --take-over (or wait until it expires in {self._expiry - silent:.0f} s)"
            )
        self._log(
            f"the run was left by {holder}, last sign of life {holder.last_sign()}; looking for {self._expiry:.0f} s "
            "whether it lives (--take-over does not wait)"
        )
        stayed = self._stays(version)
        return f"the run was left by {holder}, which gave no sign of life" if stayed else ""

    def _stays(self, version: str) -> bool:
        """Whether the lock stays as it is for the whole time after which it expires."""
        end = time.monotonic() + self._expiry
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self._renew_every / 3, left))
            held = conditional.current(self._uri)
            if held is None or held[1] != version:
                return False
        return True

    # -- keeping -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Thread: renew until the end. A store that fails now may answer the next time, until the lock has expired."""
        while self._lost is None and not self._over.wait(self._renew_every):
            try:
                self._renew()
            except OSError as error:
                silent = time.monotonic() - self._confirmed
                if silent > self._expiry:
                    self._lost = (
                        f"the lock of {self.root} could not be renewed for {silent:.0f} s, others may have it now: "
                        f"{error}. Give the same command again to go on"
                    )
            if self._lost is not None:
                self._interrupt()

    def _interrupt(self) -> None:
        """End what the main thread waits for; elsewhere `check` ends the run before a stage is kept."""
        with self._ending:  # once it is over, the signal would meet whatever handler there was before
            if self._on_main and not self._over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, LOST_SIGNAL)

    def _stop(self, *_: object) -> None:
        """Handler of the signal: KeyboardInterrupt is what everything that waits ends for, Ray too."""
        if not self._over.is_set():
            raise KeyboardInterrupt

    def _renew(self) -> None:
        with self._turn:
            if self._lost is not None:
                return
            asked, mine = time.monotonic(), self._mine
            mine = dataclasses.replace(mine, renewed=now(), renewals=mine.renewals + 1)
            version = conditional.swap(self._uri, mine.data(), self._version)
            if version is None:
                held = conditional.current(self._uri)
                if held is None or not self._is_mine(held[0]):
                    self._lost = self._taken(held)
                    return
                version = held[1]  # a renewal arrived, although its answer did not
            self._mine, self._version, self._confirmed = mine, version, asked

    def _is_mine(self, data: bytes) -> bool:
        return self._mine.token.encode() in data

    def _taken(self, held: tuple[bytes, str] | None) -> str:
        after = "nothing more is written here"
        if held is None:
            return (
                f"{self.root} was taken from this process and is free again, or its {LOCK_FILE} was deleted; {after}. "
                "Give the same command again to go on"
            )
        return f"{self.root} was taken from this process by {_name(held[0])}; {after}. Wait for that one to end"

    def _release(self) -> None:
        with self._ending:
            self._over.set()
        self._heart.join(timeout=self._renew_every)
        if self._on_main:
            signal.signal(LOST_SIGNAL, self._handler or signal.SIG_DFL)
        for _ in range(3):  # a renewal on its way may still change the version
            if self._lost is not None or conditional.remove(self._uri, self._version):
                return
            held = conditional.current(self._uri)
            if held is None or not self._is_mine(held[0]):
                return
            self._version = held[1]
