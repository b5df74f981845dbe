"""Who holds a run: the content of `lock.json`, for the next process and for a person."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import uuid
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict

from icce_ray.adapters.process import Process
from icce_ray.documents import DocumentError, Moment, parse_json, shaped
from icce_ray.io import conditional
from icce_ray.io.storage import Storage
from icce_ray.store import RunError

LOCK_FILE = "lock.json"
#: Bytes: what a lock says is shorter than its longest host name and command.
MOST_BYTES = 1 << 16
#: Seconds by which the clocks of two machines differ at most; what was renewed later than that is of no clock.
CLOCKS_DIFFER = 3600.0


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
        now = _now()
        return cls(token=uuid.uuid4().hex, command=command, process=Process.this(), started=now, renewed=now)

    @classmethod
    def read(cls, data: bytes) -> Holder:
        """From the file's content. Raises DocumentError if it is none, or of a version with other fields."""
        return shaped(cls, parse_json(data, most=MOST_BYTES))

    def data(self) -> bytes:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    def once_more(self) -> Holder:
        """The same, renewed now."""
        return dataclasses.replace(self, renewed=_now(), renewals=self.renewals + 1)

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
    found = conditional.current(uri)
    return None if found is None else understood(uri, found[0])


def understood(uri: str, data: bytes) -> Holder:
    """What a lock says. Raises RunError, which names the file, if nobody can tell."""
    try:
        return Holder.read(data)
    except DocumentError as error:
        raise RunError(
            f"{uri} is damaged or of another version ({error}), so that nobody knows who holds the run; if it is "
            "nobody, give --take-over"
        ) from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
