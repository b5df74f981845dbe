"""Who holds a run: the content of `lock.json`, for the next process and for a person."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from dataclasses import dataclass

from icce_ray.adapters import conditional
from icce_ray.adapters.process import Process
from icce_ray.adapters.storage import Storage
from icce_ray.store import RunError

LOCK_FILE = "lock.json"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What `lock.json` says: which process holds the run, and when it last said so. It holds no arguments."""

    token: str
    command: str
    process: Process
    started: str
    """UTC, ISO 8601, as `renewed`."""
    renewed: str
    renewals: int = 0

    @classmethod
    def new(cls, command: str) -> Holder:
        """This process, from now on."""
        now = _now()
        return cls(token=uuid.uuid4().hex, command=command, process=Process.this(), started=now, renewed=now)

    @classmethod
    def read(cls, data: bytes) -> Holder:
        """From the file's content. Raises ValueError if it is none, or of a version with other fields."""
        try:
            content = json.loads(data)
            holder = cls(**content | {"process": Process(**content["process"])})
            datetime.datetime.fromisoformat(holder.renewed)
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        return holder

    def data(self) -> bytes:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    def once_more(self) -> Holder:
        """The same, renewed now."""
        return dataclasses.replace(self, renewed=_now(), renewals=self.renewals + 1)

    def silent_for(self) -> float:
        """Seconds since the last renewal by the clocks of two machines, which may differ; at least 0."""
        last = datetime.datetime.fromisoformat(self.renewed)
        return max(0.0, (datetime.datetime.now(datetime.UTC) - last).total_seconds())

    def state(self) -> str:
        """One line for a person who looks at the run."""
        if self.process.has_ended():
            return f"left by {self}, which is dead: the next command goes on"
        return f"in use by {self}; last sign of life {self.silent_for():.0f} s ago"

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
    except ValueError as error:
        raise RunError(
            f"{uri} is damaged or of another version ({error}), so that nobody knows who holds the run; if it is "
            "nobody, give --take-over"
        ) from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
