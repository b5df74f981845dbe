"""Which process this is, among all machines, and whether another one still runs."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

#: Seconds that two readings of one process's start may differ by.
_SAME_START = 2.0


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process on some machine."""

    host: str
    user: str
    pid: int
    since_boot: float
    """Seconds from the start of the machine to that of the process: of no clock that anybody sets."""
    boot_id: str | None
    """Of this start of the machine; None where the system has none. Then nothing is concluded from the pid."""
    pid_namespace: str | None
    """Containers of one machine count their processes apart."""

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            user=_user(),
            pid=pid,
            since_boot=_since_boot(pid) or 0.0,
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
        )

    def has_ended(self) -> bool:
        """True if it is known to have ended: it was one of this machine, since its start, and runs no more."""
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        if self.boot_id is None or (self.host, self.boot_id, self.pid_namespace) != here:
            return False
        since_boot = _since_boot(self.pid)
        return since_boot is None or abs(since_boot - self.since_boot) > _SAME_START  # else a later one of its number

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} (user {self.user})"


def _since_boot(pid: int) -> float | None:
    """Seconds from the machine's start to that of a process; None if it does not run (a zombie does not)."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
