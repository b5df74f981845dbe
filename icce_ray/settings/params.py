"""One varied setting of a sweep: `FIELD=VALUES` on the command line, as values or as a range to draw from."""

from __future__ import annotations

import math
import random
import re
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from icce_ray.documents import DocumentError, parse_yaml, shown
from icce_ray.settings.loading import SettingsError, unknown_setting
from icce_ray.settings.models import Settings

MOST_VALUES = 10_000

_SHARED = "all trials of a sweep share one embedding and one sample: make a run for each value instead"
_SEARCHED = "the neighbours are searched once for all trials, as the run's own settings say"
#: Settings that trials cannot differ in, and why; a name stands for all fields of its group.
FIXED = {
    **dict.fromkeys(("source", "list", "embed", "heads.max_images", "heads.sample_seed"), _SHARED),
    "out": "trials are kept with the run, under sweeps/",
    "resources": "it changes how fast a trial is, not what it finds",
    "tracking": "it changes who is told of a trial, not what it finds",
    "heads.checkpoint_epochs": "it changes what a killed trial repeats, not what it finds",
    **dict.fromkeys((f"neighbors.{name}" for name in ("search", "recall", "recall_queries")), _SEARCHED),
    **dict.fromkeys((f"neighbors.{name}" for name in ("ivf_lists", "ivf_probes", "rows_per_shard")), _SEARCHED),
    "neighbors.labels": "true labels may score a sweep (--labels), but no trial learns from them",
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::(log|{_NUMBER}))?")


@dataclass(frozen=True)
class Span:
    """A range to draw from: uniform, or uniform in the logarithm; whole numbers for a whole setting."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, generator: random.Random) -> float | int:
        """One value, of four digits: enough to tell trials apart, and short in tables."""
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        elif self.whole:
            return generator.randint(math.ceil(self.low), math.floor(self.high))
        else:
            value = generator.uniform(self.low, self.high)
        value = min(max(float(f"{value:.4g}"), self.low), self.high)
        return round(value) if self.whole else value


@dataclass(frozen=True)
class Param:
    """One setting that varies: its dotted name, and its values or the range they are drawn from."""

    name: str
    text: str
    choices: tuple[Any, ...] | Span


def parse(text: str) -> Param:
    """One `FIELD=START:STOP:STEP`, `FIELD=A,B,C`, `FIELD=START:STOP` or `FIELD=START:STOP:log`.

    STOP belongs to the values. Raises SettingsError for anything else, and for a field that trials must share.
    """
    name, separator, values = (part.strip() for part in text.partition("="))
    text = shown(text, plain=True)
    if not separator or not name or not values:
        raise SettingsError(
            f"--param {text}: give FIELD=START:STOP:STEP or FIELD=A,B,C, e.g. --param neighbors.threshold=0.1:1.0:0.1"
        )
    kind = _kind(name)
    found = _RANGE.fullmatch(values)
    if found is None:
        return Param(name, values, _listed(name, values))
    low, high, step = found.groups()
    if any(not math.isfinite(float(one)) for one in (low, high, step) if one not in (None, "log")):
        raise SettingsError(f"--param {text}: a number is beyond 1e308; give numbers of a setting")
    if float(low) > float(high):
        raise SettingsError(f"--param {text}: starts at {low}, above its end {high}; give the lower one first")
    if step is None or step == "log":
        if step and float(low) <= 0:
            raise SettingsError(f"--param {text}: a logarithmic range starts above 0")
        return Param(name, values, Span(float(low), float(high), step == "log", kind is int))
    return Param(name, values, _stepped(text, low, high, step, kind))


def _kind(name: str) -> type:
    """int or float for a setting of that kind, else str. SettingsError for one that trials share or nobody knows."""
    for fixed, reason in FIXED.items():
        if name == fixed or name.startswith(f"{fixed}."):
            raise SettingsError(f"--param {name}: {reason}")
    model: Any = Settings
    for part in name.split("."):
        known = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if part not in known:
            raise SettingsError(f"--param {name}: {unknown_setting(name)}")
        model = known[part].annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = ", ".join(f"{name}.{inner}" for inner in model.model_fields if f"{name}.{inner}" not in FIXED)
        raise SettingsError(f"--param {name}: this is a group of settings; give one of {fields}")
    kinds = set(_kinds(model))
    return int if int in kinds and float not in kinds else float if float in kinds else str


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: int and None of `Annotated[int, ...] | None`."""
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _kinds(inner)


def _listed(name: str, values: str) -> tuple[Any, ...]:
    try:
        found = parse_yaml(f"[{values}]")
    except DocumentError as error:
        raise SettingsError(
            f"--param {name}={shown(values, plain=True)}: no list of values ({error}); give A,B,C or START:STOP:STEP"
        ) from error
    given = shown(values, plain=True)
    if len(found) > MOST_VALUES:
        raise SettingsError(f"--param {name}={given}: {len(found):,} values; give at most {MOST_VALUES:,}")
    twice = [key for key, count in Counter(map(repr, found)).items() if count > 1]
    if twice:
        raise SettingsError(f"--param {name}={given}: {shown(', '.join(twice), plain=True)} is there twice")
    return tuple(found)


def _stepped(text: str, low: str, high: str, step: str, kind: type) -> tuple[Any, ...]:
    """Decimal, so that 0.1:1.0:0.1 are the ten values a person means."""
    first, last, by = Decimal(low), Decimal(high), Decimal(step)
    if float(step) <= 0:
        raise SettingsError(f"--param {text}: a step of {step} leads nowhere; give one above 0")
    count = int((last - first) / by) + 1
    if count > MOST_VALUES:
        raise SettingsError(f"--param {text}: {shown(f'{count:,}', plain=True)} values; give at most {MOST_VALUES:,}")
    values = [first + index * by for index in range(count)]
    if kind is int and all(value == value.to_integral_value() for value in values):
        return tuple(int(value) for value in values)
    return tuple(float(value) for value in values)


def short(value: Any) -> str:
    """A value as it is shown in lines, tables and plots."""
    if isinstance(value, (list, tuple)):
        return "+".join(short(one) for one in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
