"""What `icce sweep` asks for: which settings take which values, and the trials they make, checked before any work.

The trials of a sweep share one embedding, one sample and one search for neighbours; only what comes after may vary.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import Any, Literal, get_args

from icce_ray.documents import DocumentError, parse_yaml, shown
from icce_ray.settings.choosing import identity
from icce_ray.settings.loading import FIELDS, SettingsError, load, unknown_setting
from icce_ray.settings.models import Settings
from icce_ray.spelling import did_you_mean

Search = Literal["grid", "random", "asha"]
SEARCHES = get_args(Search)
MOST_TRIALS = MOST_VALUES = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
#: What the result of a trial depends on, beside the features that all trials share.
TRIAL_SETTINGS = ("clusters", "seed", "neighbors", "heads", "consensus", "classifier")

_SHARED = "all trials of a sweep share one embedding and one sample: make a run for each value instead"
_SEARCHED = "the neighbours are searched once for all trials, as the run's own settings say"
_SEARCH_FIELDS = ("search", "recall", "recall_queries", "ivf_lists", "ivf_probes", "rows_per_shard")
#: Settings, and whole groups of them, in which trials cannot differ, and why.
FIXED = {
    **dict.fromkeys(("source", "list", "embed", "heads.max_images", "heads.sample_seed"), _SHARED),
    **dict.fromkeys((f"neighbors.{name}" for name in _SEARCH_FIELDS), _SEARCHED),
    "neighbors.components": "all trials of a sweep share one projection: make a run for each value instead",
    "neighbors.labels": "true labels may score a sweep (--labels), but no trial learns from them",
    "out": "trials are kept with the run, under sweeps/",
    "resources": "it changes how fast a trial is, not what it finds",
    "tracking": "it changes where figures are reported, not what a trial finds",
    "heads.checkpoint_epochs": "it changes what a killed trial repeats, not what it finds",
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::(log|{_NUMBER}))?")


@dataclass(frozen=True)
class Range:
    """Values to draw from, uniformly or uniformly in the logarithm."""

    low: float
    high: float
    log: bool
    integer: bool

    def draw(self, generator: random.Random) -> float:
        """One value, of four digits: enough to distinguish trials, and short in tables."""
        if self.integer and not self.log:
            return generator.randint(math.ceil(self.low), math.floor(self.high))
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        value = min(max(float(f"{value:.4g}"), self.low), self.high)
        return round(value) if self.integer else value


@dataclass(frozen=True)
class Param:
    """One setting that varies: its dotted name, the text of its values, and the values or the range itself."""

    name: str
    text: str
    choices: tuple[Any, ...] | Range

    @classmethod
    def parse(cls, text: str) -> Param:
        """From `FIELD=A,B,C`, `FIELD=START:STOP:STEP`, or to draw from `FIELD=START:STOP`, `FIELD=START:STOP:log`.

        STOP is one of the values. Raises SettingsError for anything else, and for a setting that trials must share.
        """
        name, _, values = (part.strip() for part in text.partition("="))
        given = f"--param {shown(text, plain=True)}"
        if not name or not values:
            raise SettingsError(
                f"{given}: give FIELD=START:STOP:STEP or FIELD=A,B,C, e.g. --param neighbors.threshold=0.1:1.0:0.1"
            )
        _check_may_vary(name)
        match = _RANGE.fullmatch(values)
        return cls(name, values, _range(given, name, *match.groups()) if match else _list(given, values))


@dataclass(frozen=True)
class Trial:
    """One point of a sweep."""

    index: int
    params: dict[str, Any]
    settings: Settings = field(repr=False)
    digest: str
    """Of everything that its result depends on but the features."""

    def __str__(self) -> str:
        return _point(self.params)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that `icce sweep` was asked for."""

    params: tuple[Param, ...]
    search: Search = "grid"
    samples: int | None = None
    """Trials to draw; None takes all combinations."""
    sweep_seed: int = 0
    """Of the draws; the seed of a trial's training is the run's, or a parameter like any other."""
    labels: str | None = None
    classifier: bool = False
    """Whether trials train the classifier too."""
    grace: int | None = None
    """Epochs after which `asha` may stop a trial; by default a ninth of them, at least the warm-up."""

    @classmethod
    def of(cls, params: list[str], *, classifier: bool = False, **options: Any) -> Sweep:
        """From the texts of `--param` and the other options. Raises SettingsError with what is wrong."""
        if not params:
            raise SettingsError("a sweep needs at least one --param FIELD=VALUES")
        parsed = tuple(Param.parse(text) for text in params)
        for name, count in Counter(param.name for param in parsed).items():
            if count > 1:
                raise SettingsError(f"--param {name} is given {count} times; give all its values in one")
        classifier = classifier or any(param.name.startswith("classifier.") for param in parsed)
        sweep = cls(params=parsed, classifier=classifier, **options)
        sweep._check()
        return sweep

    @property
    def default_name(self) -> str:
        """The fields that vary, as the name of a sweep that was given none."""
        return "+".join(param.name.rpartition(".")[2] for param in self.params)

    def defining(self) -> dict[str, Any]:
        """What defines the sweep beside the run's own settings, as plain values."""
        return vars(self) | {"params": {param.name: param.text for param in self.params}}

    def _check(self) -> None:
        if self.search not in SEARCHES:
            hint = did_you_mean(self.search, SEARCHES)
            raise SettingsError(f"--search {self.search}: {hint}give one of {', '.join(SEARCHES)}")
        if self.search == "grid" and self.samples is not None:
            raise SettingsError("--samples draws trials at random; give --search random or asha with it")
        if self.search == "random" and self.samples is None:
            raise SettingsError("--search random needs --samples N, the number of trials to draw")
        if self.samples is not None and not 1 <= self.samples <= MOST_TRIALS:
            raise SettingsError(f"--samples {self.samples}: give 1 to {MOST_TRIALS:,}")
        if self.grace is not None and (self.search != "asha" or self.grace < 1):
            raise SettingsError(f"--grace {self.grace}: give at least 1 epoch, and --search asha with it")
        for param in self.params:
            if isinstance(param.choices, Range) and self.samples is None:
                raise SettingsError(
                    f"--param {param.name}={param.text} is a range without a step; give START:STOP:STEP, or draw from "
                    "it with --search random --samples N"
                )


def trials(base: Settings, sweep: Sweep) -> list[Trial]:
    """All trials in order, each with its settings checked. Raises SettingsError naming the first that is invalid."""
    by_digest: dict[str, Trial] = {}
    for point in _points(sweep):
        settings = _applied(base, point)
        values = identity(settings)
        defining = json.dumps({name: values[name] for name in TRIAL_SETTINGS}, sort_keys=True)
        digest = hashlib.sha256(defining.encode()).hexdigest()[:16]
        params = {name: attrgetter(name)(settings) for name in point}  # as numbers: 1e-4 in YAML is text
        by_digest.setdefault(digest, Trial(len(by_digest), params, settings, digest))
        if len(by_digest) == sweep.samples:
            break
        if len(by_digest) > MOST_TRIALS:
            raise SettingsError(f"the parameters make more than {MOST_TRIALS:,} trials; draw some with --search random")
    return list(by_digest.values())


def short(value: Any) -> str:
    """A value as it is shown in lines, tables and plots."""
    if isinstance(value, (list, tuple)):
        return "+".join(short(one) for one in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _check_may_vary(name: str) -> None:
    for fixed, reason in FIXED.items():
        if name == fixed or name.startswith(f"{fixed}."):
            raise SettingsError(f"--param {name}: {reason}")
    if name not in FIELDS:
        fields = [one for one in FIELDS if one.startswith(f"{name}.") and one not in FIXED]
        group = f"this is a group of settings; give one of {', '.join(fields)}"
        raise SettingsError(f"--param {name}: {group if fields else unknown_setting(name)}")


def _range(given: str, name: str, low: str, high: str, step: str | None) -> tuple[float, ...] | Range:
    """The values of a range with a step, else the range to draw from."""
    if not all(math.isfinite(float(number)) for number in (low, high, step or 0) if number != "log"):
        raise SettingsError(f"{given}: a number is beyond 1e308; give numbers of a setting")
    if float(low) > float(high):
        raise SettingsError(f"{given}: starts at {low}, above its end {high}; give the lower one first")
    if step is None or step == "log":
        if step and float(low) <= 0:
            raise SettingsError(f"{given}: a logarithmic range starts above 0")
        return Range(float(low), float(high), step == "log", _is_integer(name))
    if float(step) <= 0:
        raise SettingsError(f"{given}: a step of {step} leads nowhere; give one above 0")
    first, last, by = Decimal(low), Decimal(high), Decimal(step)  # 0.1:1.0:0.1 are ten values; not so in binary
    count = int((last - first) / by) + 1
    if count > MOST_VALUES:
        raise SettingsError(f"{given}: {shown(f'{count:,}', plain=True)} values; give at most {MOST_VALUES:,}")
    values = [first + index * by for index in range(count)]
    return tuple(map(int if all(value == value.to_integral_value() for value in values) else float, values))


def _is_integer(name: str) -> bool:
    """Whether a setting takes integers only, perhaps beside None."""
    group, _, last = name.rpartition(".")
    model: Any = Settings.model_fields[group].annotation if group else Settings
    kinds = {model.model_fields[last].annotation}
    for _ in range(2):  # int of Annotated[int, ...] | None
        kinds |= {inner for kind in kinds for inner in get_args(kind)}
    return int in kinds and float not in kinds


def _list(given: str, values: str) -> tuple[Any, ...]:
    try:
        choices = parse_yaml(f"[{values}]")
    except DocumentError as error:
        raise SettingsError(f"{given}: no list of values ({error}); give A,B,C or START:STOP:STEP") from error
    if len(choices) > MOST_VALUES:
        raise SettingsError(f"{given}: {len(choices):,} values; give at most {MOST_VALUES:,}")
    repeated = [value for value, count in Counter(map(repr, choices)).items() if count > 1]
    if repeated:
        raise SettingsError(f"{given}: {shown(', '.join(repeated), plain=True)} is there twice")
    return tuple(choices)


def _points(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The values of each trial: all combinations, or draws, which may repeat themselves."""
    names = [param.name for param in sweep.params]
    if sweep.samples is None:
        grid = (param.choices for param in sweep.params if isinstance(param.choices, tuple))
        yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*grid))
        return
    generator = random.Random(sweep.sweep_seed)
    for _ in range(100 * sweep.samples):  # enough to have seen all where there are few combinations
        choices = (param.choices for param in sweep.params)
        draws = [one.draw(generator) if isinstance(one, Range) else generator.choice(one) for one in choices]
        yield dict(zip(names, draws, strict=True))


def _applied(base: Settings, params: dict[str, Any]) -> Settings:
    values = base.model_dump()
    for name, value in params.items():
        group, _, last = name.rpartition(".")
        (values[group] if group else values)[last] = value
    try:
        settings = load(values)
    except SettingsError as error:
        raise SettingsError(f"trial {shown(_point(params), 300, plain=True)}: {error}") from None
    if settings.neighbors.mode == "ground_truth":
        raise SettingsError("neighbors.mode = ground_truth learns from true labels, so its trials compare nothing")
    return settings


def _point(params: dict[str, Any]) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in params.items())
