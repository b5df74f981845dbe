"""What the scripts of this folder share: their options and tables, and time and memory of processes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent b of values ~ sizes ** b, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def options(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser of options of the type of their default: a number, text, a list of these, or a flag (False)."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(option, action="store_true")
        elif isinstance(default, list):
            parser.add_argument(option, type=type(default[0]), nargs="*", default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def header(*cells: object) -> None:
    """Print the first two rows of a Markdown table."""
    row(*cells)
    print(f"|{'---|' * len(cells)}", flush=True)


def least(work: Callable[[], object], passes: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Least seconds of some passes, after one that does not count: the least is what the machine can do."""
    work()
    taken = []
    for _ in range(passes):
        started = clock()
        work()
        taken.append(clock() - started)
    return min(taken)


def in_a_process(script: str, *arguments: object, **environment: str) -> dict[str, Any]:
    """What a script prints as JSON on its last line, run in a process of its own."""
    command = [sys.executable, script, *map(str, arguments)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | environment)
    return json.loads(answer.stdout.splitlines()[-1])


def fresh_peak() -> float:
    """Resident MiB of this process, once what is free is given back; the peak is counted from here on."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _own("VmRSS")


def peak() -> float:
    """Largest resident MiB of this process since `fresh_peak`."""
    return _own("VmHWM")


def _own(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def status_of(pid: str) -> dict[str, int]:
    """Memory of a process by kind, MiB; empty if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM", "RssAnon", "RssShmem", "PPid")))
    return {name: int(value.split()[0]) if name == "PPid" else int(value.split()[0]) // 1024 for name, value in pairs}


def cpu_of(pid: str) -> float | None:
    """Seconds of all cores that a process has used; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shared_of(ours: dict[str, dict[str, int]]) -> int:
    """MiB of the object store, of processes as `Watch.look` finds them: whoever maps most of it."""
    return max(status.get("RssShmem", 0) for status in ours.values())


class Watch(threading.Thread):
    """The most memory that this process and those below it have had, and the time they have used of all cores."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"driver": 0, "task": 0, "shared": 0, "all": 0}
        self.used: dict[str, float] = {}

    def run(self) -> None:
        """Look until the process ends."""
        own = str(os.getpid())
        while True:
            ours = self.look()
            tasks = [status.get("VmRSS", 0) for pid, status in ours.items() if pid != own]
            self._raise("driver", ours[own].get("VmHWM", 0))
            self._raise("task", max(tasks, default=0))
            self._raise("shared", shared_of(ours))
            self._raise("all", shared_of(ours) + sum(status.get("RssAnon", 0) for status in ours.values()))
            time.sleep(0.2)

    def cpu(self) -> float:
        """Seconds so far, those of processes that have ended included."""
        self.look()
        return sum(self.used.values())

    def look(self) -> dict[str, dict[str, int]]:
        """Memory of this process and of all below it."""
        own = str(os.getpid())
        found = {path.name: status_of(path.name) for path in Path("/proc").glob("[0-9]*")}
        below, more = {own}, {own}
        while more:
            more = {pid for pid, status in found.items() if str(status.get("PPid")) in more} - below
            below |= more
        self.used |= {pid: seconds for pid in below if (seconds := cpu_of(pid)) is not None}
        return {pid: found[pid] for pid in below if found.get(pid)}

    def _raise(self, name: str, value: int) -> None:
        self.most[name] = max(self.most[name], value)
