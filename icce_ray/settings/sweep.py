"""What a sweep asks: which settings, which values, and the trials they make, known before any work starts.

Trials of a sweep share one embedding, one sample and one search for neighbours; only what comes after may vary.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from icce_ray.documents import shown
from icce_ray.settings.loading import SettingsError, load
from icce_ray.settings.models import Settings
from icce_ray.settings.params import Param, Span, parse, short
from icce_ray.spelling import did_you_mean

Search = Literal["grid", "random", "asha"]
SEARCHES = get_args(Search)
MOST_TRIALS = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
#: What a trial's result depends on beside the embedding that all share.
_DEFINING = ("clusters", "seed", "neighbors", "heads", "consensus", "classifier")


@dataclass(frozen=True)
class Trial:
    """One point of a sweep."""

    index: int
    params: dict[str, Any]
    settings: Settings = field(repr=False)
    digest: str
    """Of everything that its result depends on but the features."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={short(value)}" for name, value in self.params.items())


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that `icce sweep` was asked."""

    params: tuple[Param, ...]
    search: Search = "grid"
    samples: int | None = None
    seed: int = 0
    """Of the draws; the seed of a trial's training is the run's, or a parameter like any other."""
    labels: str | None = None
    classifier: bool = False
    grace: int | None = None
    """Epochs after which `asha` may stop a trial; by default a ninth of them, at least the warm-up."""

    @classmethod
    def of(cls, params: list[str], **options: Any) -> Sweep:
        """From the texts of `--param` and the other options. Raises SettingsError with what is wrong."""
        parsed = tuple(parse(text) for text in params)
        names = [param.name for param in parsed]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"--param {name} is given {names.count(name)} times; give all its values in one")
        if not parsed:
            raise SettingsError("a sweep needs at least one --param FIELD=VALUES")
        sweep = cls(params=parsed, **options)
        sweep._check()
        return sweep

    @property
    def drawn(self) -> bool:
        """Whether trials are drawn, not all combinations taken."""
        return self.samples is not None

    @property
    def with_classifier(self) -> bool:
        """Whether trials train the classifier too: asked for, or one of its settings is swept."""
        return self.classifier or any(param.name.startswith("classifier.") for param in self.params)

    @property
    def default_name(self) -> str:
        """The fields, for want of a better name."""
        return "+".join(param.name.rpartition(".")[2] for param in self.params)

    def asked(self) -> dict[str, Any]:
        """What defines the sweep beside the run's own settings, as plain values."""
        return {
            "params": {param.name: param.text for param in self.params},
            "search": self.search,
            "samples": self.samples,
            "sweep_seed": self.seed,
            "labels": self.labels,
            "classifier": self.with_classifier,
            "grace": self.grace,
        }

    def _check(self) -> None:
        if self.search not in SEARCHES:
            raise SettingsError(
                f"--search {self.search}: {did_you_mean(self.search, SEARCHES)}give one of {', '.join(SEARCHES)}"
            )
        if self.search == "grid" and self.drawn:
            raise SettingsError("--samples draws trials at random; give --search random or asha with it")
        if self.search == "random" and not self.drawn:
            raise SettingsError("--search random needs --samples N, the number of trials to draw")
        if self.samples is not None and not 1 <= self.samples <= MOST_TRIALS:
            raise SettingsError(f"--samples {self.samples}: give 1 to {MOST_TRIALS:,}")
        if self.grace is not None and (self.search != "asha" or self.grace < 1):
            raise SettingsError(f"--grace {self.grace}: give at least 1 epoch, and --search asha with it")
        for param in self.params:
            if isinstance(param.choices, Span) and not self.drawn:
                raise SettingsError(
                    f"--param {param.name}={param.text} is a range without a step; give START:STOP:STEP, or draw from "
                    "it with --search random --samples N"
                )


def trials(base: Settings, sweep: Sweep) -> list[Trial]:
    """All trials in order, each with its settings checked. Raises SettingsError naming the first that cannot be."""
    found: dict[str, Trial] = {}
    for params in _drawn(sweep) if sweep.drawn else _combinations(sweep):
        settings = _applied(base, params)
        digest, values = _digest(settings), {name: _value(settings, name) for name in params}
        found.setdefault(digest, Trial(len(found), values, settings, digest))
        if len(found) == (sweep.samples or MOST_TRIALS + 1):
            break
    if len(found) > MOST_TRIALS:
        raise SettingsError(f"the parameters make more than {MOST_TRIALS:,} trials; draw some with --search random")
    return list(found.values())


def _combinations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    names = [param.name for param in sweep.params]
    for values in itertools.product(*(param.choices for param in sweep.params if isinstance(param.choices, tuple))):
        yield dict(zip(names, values, strict=True))


def _drawn(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Draws without end that repeat themselves where few combinations exist: enough of them to have seen all."""
    generator = random.Random(sweep.seed)
    for _ in range(100 * (sweep.samples or 0)):
        yield {
            param.name: param.choices.draw(generator)
            if isinstance(param.choices, Span)
            else generator.choice(param.choices)
            for param in sweep.params
        }


def _applied(base: Settings, params: dict[str, Any]) -> Settings:
    values = base.model_dump()
    for name, value in params.items():
        *groups, last = name.split(".")
        target = values
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise SettingsError(f"--param {name}: {group} is no group of settings")
        target[last] = value
    try:
        settings = load(values)
    except SettingsError as error:
        raise SettingsError(f"trial {_shown(params)}: {error}") from None
    if settings.neighbors.mode == "ground_truth":
        raise SettingsError("neighbors.mode = ground_truth learns from true labels, so its trials compare nothing")
    return settings


def _value(settings: Settings, name: str) -> Any:
    """A setting by its dotted name, as the settings understood it: 1e-4 in YAML is text."""
    return functools.reduce(getattr, name.split("."), settings)


def _digest(settings: Settings) -> str:
    values = settings.defining()
    text = json.dumps({name: values[name] for name in _DEFINING}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(params: dict[str, Any]) -> str:
    return ", ".join(f"{name}={shown(short(value), plain=True)}" for name, value in params.items())
