"""Speeds that a plan rests on, read from `rates.yaml`: every one says how it is known.

An entry is `measured` (date, machine, command) or `counted` (from what, and why). What a GPU takes that nobody has
measured is counted: operations and bytes over an assumed share of the vendor's published peak; both are in the file,
and the plan says so.
"""

from __future__ import annotations

import datetime
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from icce_ray.backbones import PUBLISHED, TransformerShape
from icce_ray.documents import DocumentError, parse_yaml, read_yaml_map, shaped
from icce_ray.settings import SettingsError
from icce_ray.spelling import did_you_mean

T = TypeVar("T")
Text = Annotated[str, Field(min_length=1)]
Amount = Annotated[float, Field(gt=0.0)]


class PlanError(SettingsError):
    """A plan that cannot be made as asked; the message names the value, what is allowed and the remedy."""


class Strict(BaseModel):
    """A frozen model without unknown fields and infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(Strict):
    """When, where and how a figure was measured."""

    date: datetime.date
    machine: Text
    command: Text


class Counted(Strict):
    """What a figure that nobody measured rests on."""

    basis: Text


class Rate(Strict):
    """One figure and how it is known: exactly one of `measured` and `counted`."""

    value: Amount
    unit: Text
    what: Text
    measured: Measured | None = None
    counted: Counted | None = None

    @model_validator(mode="after")
    def _has_origin(self) -> Rate:
        if (self.measured is None) == (self.counted is None):
            raise ValueError(
                "give either `measured` (date, machine, command) or `counted` (basis): a figure says how it is known"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_the_other(self, content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in content(self).items() if value is not None}

    @property
    def source(self) -> str:
        """How it is known, in words."""
        if self.measured is not None:
            return f"measured {self.measured.date} on {self.measured.machine} with `{self.measured.command}`"
        return f"counted, not measured: {self.counted.basis if self.counted else ''}"


class Share(Strict):
    """The share of a published peak that a GPU is assumed to reach where nobody has measured."""

    share: float = Field(gt=0.0, le=1.0)
    of: Literal["bfloat16", "float32", "bandwidth"]
    what: Text
    basis: Text


class Gpu(Strict):
    """One kind of GPU: the vendor's figures, and what was measured on it."""

    memory_gb: Amount
    bfloat16_tflops: Amount
    """Dense, on tensor cores; of float16 as well."""
    float32_tflops: Amount
    """Without TF32: what is in float32 stays exact."""
    bandwidth_gb_s: Amount
    source: Text
    rates: dict[str, Rate] = {}

    def rate(self, name: str, share: Share) -> Rate:
        """What was measured on this kind of GPU, else the assumed share of its peak."""
        if name in self.rates:
            return self.rates[name]
        tera = {
            "bfloat16": self.bfloat16_tflops,
            "float32": self.float32_tflops,
            "bandwidth": self.bandwidth_gb_s / 1e3,
        }
        peak, unit = tera[share.of], "B/s" if share.of == "bandwidth" else "FLOP/s"
        basis = f"assumed {share.share:.0%} of the {peak:.3g} T{unit} ({share.of}) in {self.source}; {share.basis}"
        return Rate(value=share.share * peak * 1e12, unit=f"{unit}/GPU", what=share.what, counted=Counted(basis=basis))


class Rates(Strict):
    """The whole file."""

    measurements: dict[str, Measured]
    """By name, for rates whose `measured` is such a name."""
    host: dict[str, Rate]
    """Of one core, unless the unit says otherwise."""
    core: dict[str, Rate]
    """Of one core; of what has a share, where there is no GPU."""
    fixed: dict[str, Rate]
    """Seconds of a stage that do not depend on its size, and of the start of Ray."""
    shares: dict[str, Share]
    gpus: dict[str, Gpu]
    models: dict[str, TransformerShape]
    """Beside the published ones."""

    def table(self, gpu: Gpu | None) -> dict[str, Rate]:
        """Every rate by name: of one core and of files, of one GPU of a kind where it is used, `fixed STAGE`."""
        on_gpu = {} if gpu is None else {name: gpu.rate(name, share) for name, share in self.shares.items()}
        return self.host | self.core | on_gpu | {f"fixed {stage}": rate for stage, rate in self.fixed.items()}

    def gpu(self, name: str) -> Gpu:
        """Raises PlanError for one that is not in the file."""
        return _named("GPU type", name, "gpus", self.gpus)

    def model(self, name: str) -> TransformerShape:
        """Raises PlanError for one that is not in the file."""
        return _named("model", name, "models", PUBLISHED | self.models)


def load_rates(path: str | None = None) -> Rates:
    """The rates that come with the package, with the entries of the YAML file `path` in their places.

    The file has the same sections and may hold any part of them: a GPU, a model, a single rate. Raises PlanError.
    """
    name, file = "rates.yaml", resources.files("icce_ray.planning").joinpath("rates.yaml")
    content = parse_yaml(file.read_text())
    if path is not None:
        name = f"--rates {path}"
        try:
            _merge(content, shaped(dict[str, dict[str, Any]], read_yaml_map(path)))
        except DocumentError as error:
            sections = ", ".join(Rates.model_fields)
            raise PlanError(f"{name}: {error}; give a YAML file with sections of {sections}") from error
    rates = [rate for section in ("host", "core", "fixed") for rate in content[section].values()]
    rates += [
        rate for gpu in content["gpus"].values() if isinstance(gpu, dict) for rate in gpu.get("rates", {}).values()
    ]
    for rate in rates:
        if isinstance(rate, dict) and isinstance(rate.get("measured"), str):
            rate["measured"] = content["measurements"].get(rate["measured"], rate["measured"])
    return checked(Rates, content, name=f"{name}: ")


def checked(kind: type[T], values: object, *, name: str = "") -> T:
    """`values` as a model. Raises PlanError for what does not fit."""
    try:
        return shaped(kind, values)
    except DocumentError as error:
        raise PlanError(f"{name}{error}") from error


def _merge(into: dict[str, Any], given: dict[str, dict[str, Any]]) -> None:
    """Put entries of `given` in the place of ours: a rate, a model or a share as a whole, a GPU field by field."""
    for section, entries in given.items():
        ours = into.setdefault(section, {})
        for key, entry in entries.items():
            if section in ("host", "core", "fixed", "shares") and key not in ours:
                raise DocumentError(f"{section}.{key} is no rate; {did_you_mean(key, ours)}rates: {', '.join(ours)}")
            if section == "gpus" and key in ours and isinstance(entry, dict):
                rates = ours[key].get("rates", {}) | (entry.get("rates") or {})
                ours[key] = ours[key] | entry | {"rates": rates}
            else:
                ours[key] = entry


def _named(kind: str, name: str, section: str, entries: dict[str, T]) -> T:
    if name in entries:
        return entries[name]
    names, example = [*entries, *(["hog"] if kind == "model" else [])], ""
    if kind == "model":
        example = ", of a vision transformer for example {width: 768, depth: 12, patch: 16}"
    raise PlanError(
        f"no rates for the {kind} {name!r}; {did_you_mean(name, names)}known: {', '.join(names)}; give your own with "
        f"--rates FILE, a YAML file with an entry {section}.{name} as in icce_ray/planning/rates.yaml{example}"
    )
