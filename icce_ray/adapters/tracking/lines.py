"""The lines of `metrics.jsonl`: one JSON object an event."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import FiniteFloat

from icce_ray.documents import DocumentError, parse_json, shaped
from icce_ray.io.storage import Storage, StorageError

_UNUSUAL = re.compile(r"[^\w./-]+")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One event: `begin` of a driver's work, a `step` of a stage, or the `summary` of a stage at its end."""

    time: float
    """Seconds since 1970."""
    stage: str
    event: str
    step: int
    """Units of work done, of a `step`; else how many events of this kind there were before."""
    figures: Mapping[str, float | None]
    """None in the place of what is no number: JSON has no NaN."""
    id: str | None = None
    """Only of `begin`: the run as trackers know it."""
    to: tuple[str, ...] = ()
    """Only of `begin`: trackers that were told what follows."""

    def encoded(self) -> bytes:
        """The line with its end."""
        moment = datetime.datetime.fromtimestamp(self.time, datetime.UTC).isoformat(timespec="milliseconds")
        content: dict[str, Any] = {"time": moment, "stage": self.stage, "event": self.event, "step": self.step}
        if self.id is not None:
            content |= {"id": self.id, "to": list(self.to)}
        return (
            json.dumps(content | {"figures": dict(self.figures)}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        )

    def tagged(self) -> list[tuple[str, float]]:
        """(name among all stages, value) of each number: `heads/mean_loss`, `consensus/summary/anmi`."""
        kind = "" if self.event == "step" else f"{self.event}/"
        return [(f"{self.stage}/{kind}{name}", value) for name, value in self.figures.items() if value is not None]


def read_lines(storage: Storage, path: str) -> list[Line]:
    """All lines of a file, none if it is not there. Raises StorageError for a file that others wrote."""
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return []
    try:
        return shaped(list[Line], [_content(line) for line in data.splitlines() if line.strip()])
    except (DocumentError, OverflowError) as error:
        raise StorageError(
            f"{storage.uri(path)} is damaged ({error}); delete it: what was told before is lost, results are not"
        ) from error


def _content(data: bytes) -> dict[str, Any]:
    """The fields of a line as `encoded` wrote them, the moment as seconds."""
    content = shaped(dict[str, Any], parse_json(data))
    content["time"] = shaped(datetime.datetime, content.get("time")).timestamp()
    content["figures"] = shaped(dict[str, FiniteFloat | None], content.get("figures"))
    return content


def scalars(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """The numbers among a stage's figures, by names such as `scores/mcla`.

    A list of numbers gives its mean, least and greatest, any other list its length; text and truth values are no
    figures.
    """
    found: dict[str, float | None] = {}
    for key, value in figures.items():
        name = _UNUSUAL.sub("_", f"{prefix}{key}")
        if isinstance(value, Mapping):
            found |= scalars(value, f"{name}/")
        elif isinstance(value, (list, tuple)):
            found |= _spread(name, value)
        elif _is_number(value):
            found[name] = _finite(value)
    return found


def _spread(name: str, values: Iterable[Any]) -> dict[str, float | None]:
    values = list(values)
    if not values or not all(map(_is_number, values)):
        return {name: len(values)}
    mean = math.fsum(values) / len(values)
    return {f"{name}/mean": _finite(mean), f"{name}/min": _finite(min(values)), f"{name}/max": _finite(max(values))}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
