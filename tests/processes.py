"""Processes of this machine: which there are, who started them, and waiting for what they do."""

import os
import signal
import time
from pathlib import Path

#: Seconds between two checks, and until a wait fails: no test depends on either.
POLL, PATIENCE = 0.02, 300


def processes():
    """{pid: (parent, session, time of its start)} of all that run; a zombie does not."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] != "Z":
            found[int(folder.name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    return found


def started(pids):
    """{pid: time of its start} of those of some processes that run: a pid alone may be given away again."""
    now = processes()
    return {pid: now[pid][2] for pid in pids if pid in now}


def of_session(leader):
    """A driver and all of its Ray, as `started`."""
    return {pid: start for pid, (_, session, start) in processes().items() if session == leader}


def descendants(leader):
    """Processes below one, itself included."""
    found, below, more = processes(), {leader}, True
    while more:
        more = {pid for pid, (parent, _, _) in found.items() if parent in below} - below
        below |= more
    return below


def left_of(earlier):
    """Those of some {pid: time of its start} that still run."""
    now = started(earlier)
    return [pid for pid, start in earlier.items() if now.get(pid) == start]


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:  # it has ended
        return ""


def end(earlier):
    """Kill those of some {pid: time of its start} that still run."""
    for pid in left_of(earlier):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition, what, poll=POLL):
    """Wait until `condition` gives a true value; returns it."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not happen in {PATIENCE} s"
        time.sleep(poll)
    return found
