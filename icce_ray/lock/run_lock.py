"""Taking the lock of a run, keeping it by renewals, and giving it back."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType

from icce_ray.documents import DocumentError
from icce_ray.io import conditional
from icce_ray.io.storage import Storage
from icce_ray.io.stores import abort_uploads, check_access
from icce_ray.lock.holder import LOCK_FILE, Holder, understood
from icce_ray.store import RunError

#: Seconds between two renewals, and without one until the lock expires.
RENEW_EVERY, EXPIRY = 15.0, 90.0
#: Seconds that workers of a killed driver may go on writing.
WORKERS_END = 5.0

_ATTEMPTS = 20


class RunLock:
    """The right to write to a run, as a context manager.

    Args:
        root: directory or URI of the run; made if it is not there.
        command: what the holder does, for others to read.
        take_over: take the lock whoever holds it.
        say: shows one line to the person who waits.
        renew_every: seconds between two signs of life.
        expiry: seconds without one after which others may take the lock.

    Entering raises RunError if the run is in use, StorageError (OSError) where nothing can be written: it is also
    the first write to the run. Then `taken_from` is the former holder if one was left or replaced, and nothing that
    it started writes any more after `settle` seconds.
    """

    def __init__(
        self,
        root: str,
        *,
        command: str = "icce run",
        take_over: bool = False,
        say: Callable[[str], None] = lambda text: None,
        renew_every: float = RENEW_EVERY,
        expiry: float = EXPIRY,
    ) -> None:
        storage = Storage(root)
        self.root = storage.root
        self.taken_from: Holder | None = None
        self.settle = 0.0
        self._uri = storage.uri(LOCK_FILE)
        self._say, self._take_over, self._command = say, take_over, command
        self._renew_every, self._expiry = renew_every, expiry
        self._lost: str | None = None
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._on_main = False

    def __enter__(self) -> RunLock:
        """Take the lock and keep it."""
        check_access(self._uri)  # what is wrong with keys or endpoint, within seconds
        self._on_main = threading.current_thread() is threading.main_thread()
        self._mine = Holder.new(self._command)
        self._version = self._acquire()
        self._confirmed = time.monotonic()
        self._deaf = self._on_main and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if self._deaf:  # as a shell starts commands in the background
            signal.signal(signal.SIGINT, self._heed_loss)
        self._heart = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._heart.start()
        try:
            if self.settle:  # what the former holder was uploading is still paid for
                abort_uploads(self._folder())
            Storage(self.root).sweep()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back; of a lock that cannot be removed the person is told. RunError if it was lost meanwhile."""
        try:
            self._release()
        except OSError as failure:
            self._say(f"the run's lock could not be removed and will expire in {self._expiry:.0f} s: {failure}")
        except KeyboardInterrupt:
            if self._lost is None:
                raise
        if self._lost is not None and kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)):
            raise RunError(self._lost) from None  # it was `_interrupt`

    def check(self, at_most: float = 0.0) -> None:
        """Raise RunError if the run is no longer ours, and name who has it.

        Asks the store, unless it said so in the last `at_most` seconds. Raises StorageError if it does not answer.
        """
        if self._lost is None and time.monotonic() - self._confirmed >= at_most:
            self._renew()
        if self._lost is not None:
            raise RunError(self._lost)

    # -- taking ------------------------------------------------------------------------------------------------

    def _acquire(self) -> str:
        """Version of the lock, once it is ours."""
        for _ in range(_ATTEMPTS):
            found, said = conditional.current(self._uri), ""
            if found is None:
                version = conditional.swap(self._uri, self._mine.data(), None)
            elif self._is_mine(found[0]):  # an earlier attempt arrived, although its answer did not
                version = found[1]
            else:
                said = self._may_replace(*found)
                version = conditional.swap(self._uri, self._mine.data(), found[1]) if said else None
            if version is not None:
                if said:
                    self._say(f"{said}: taken over")
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
            with contextlib.suppress(DocumentError):
                self.taken_from = Holder.read(data)
            return f"the run was held by {self.taken_from or 'somebody unknown'}, which --take-over ends"
        self.taken_from = holder = understood(self._uri, data)
        if holder.process.has_ended():
            self.settle = WORKERS_END
            return f"the run was left by {holder}, which is dead"
        silent = holder.silent_for()
        if silent < self._expiry:
            raise RunError(
                f"{self.root} is in use by {holder} (last sign of life {holder.last_sign()}); wait for it, or if you "
                f"know that it is dead, give --take-over (or wait until it expires in {self._expiry - silent:.0f} s)"
            )
        self._say(
            f"the run was left by {holder}, last sign of life {holder.last_sign()}; "
            f"looking for {self._expiry:.0f} s whether it lives "
            "(--take-over does not wait)"
        )
        stayed = self._stays(version)
        return f"the run was left by {holder}, which gave no sign of life" if stayed else ""

    def _stays(self, version: str) -> bool:
        """Whether the lock stays as it is for the whole time after which it expires."""
        end = time.monotonic() + self._expiry
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self._renew_every / 3, left))
            found = conditional.current(self._uri)
            if found is None or found[1] != version:
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
        """End what the main thread waits for, as Ctrl-C does; elsewhere `check` ends the run before a stage is kept."""
        if self._on_main and not self._over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _heed_loss(self, *_: object) -> None:
        """SIGINT where it was ignored: still ignored, but for our own."""
        if self._lost is not None:
            raise KeyboardInterrupt

    def _renew(self) -> None:
        with self._turn:
            if self._lost is not None:
                return
            asked, mine = time.monotonic(), self._mine.once_more()
            version = conditional.swap(self._uri, mine.data(), self._version)
            if version is None:
                found = conditional.current(self._uri)
                if found is None or not self._is_mine(found[0]):
                    self._lost = self._taken(found)
                    return
                version = found[1]  # a renewal arrived, although its answer did not
            self._mine, self._version, self._confirmed = mine, version, asked

    def _is_mine(self, data: bytes) -> bool:
        with contextlib.suppress(DocumentError):
            return Holder.read(data).token == self._mine.token
        return False

    def _taken(self, found: tuple[bytes, str] | None) -> str:
        after = "nothing more is written here"
        if found is None:
            return (
                f"{self.root} was taken from this process and is free again, or its {LOCK_FILE} was deleted; {after}. "
                "Give the same command again to go on"
            )
        try:
            by = str(Holder.read(found[0]))
        except DocumentError:
            by = f"somebody whose {LOCK_FILE} cannot be understood"
        return f"{self.root} was taken from this process by {by}; {after}. Wait for that one to end"

    def _release(self) -> None:
        self._over.set()
        self._heart.join(timeout=self._renew_every)
        if self._deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(3):  # a renewal on its way may still change the version
            if self._lost is not None or conditional.remove(self._uri, self._version):
                return
            found = conditional.current(self._uri)
            if found is None or not self._is_mine(found[0]):
                return
            self._version = found[1]

    def _folder(self) -> str:
        before, _, query = self._uri.rpartition(LOCK_FILE)
        return before + query
