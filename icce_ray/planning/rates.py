"""Speeds that a plan rests on: a YAML file in which every entry says how it is known, and its check.

An entry is `measured` (date, machine, command) or `derived` (from what, and why). Speeds of GPUs that nobody has
measured are an assumed share of the vendor's published peak; both are in the file, and the plan says so.
"""

from __future__ import annotations

import datetime
from importlib import resources
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from icce_ray.documents import DocumentError, parse_yaml, read_regular
from icce_ray.planning.operations import Transformer
from icce_ray.settings import SettingsError
from icce_ray.spelling import did_you_mean

Text = Annotated[str, Field(min_length=1)]
Amount = Annotated[float, Field(gt=0.0)]

HostRate = Literal[
    "list",
    "decode",
    "hog",
    "parquet_write",
    "parquet_read",
    "id_bytes",
    "manifest_bytes",
    "draw",
    "cspa",
    "hgpa",
    "hbgf",
    "mcla",
    "cut",
    "votes",
]
DeviceRate = Literal[
    "forward_small",
    "forward_base",
    "forward_large",
    "heads_matmul",
    "heads_memory",
    "search_matmul",
    "search_rescore",
    "linear",
    "label",
]
FixedRate = Literal["start", "list", "embed", "sample", "neighbors", "heads", "consensus", "classifier", "predict"]


class PlanError(SettingsError):
    """A plan that cannot be made as asked; the message names the value, what is known and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Strict):
    """When, where and how a figure was measured."""

    date: datetime.date
    machine: Text
    command: Text


class Derived(_Strict):
    """What a figure that nobody measured rests on."""

    basis: Text


class Rate(_Strict):
    """One figure and how it is known: exactly one of `measured` and `derived`."""

    value: Amount
    unit: Text
    what: Text
    measured: Measured | None = None
    derived: Derived | None = None

    @model_validator(mode="after")
    def _known(self) -> Rate:
        if (self.measured is None) == (self.derived is None):
            raise ValueError(
                "give either `measured` (date, machine, command) or `derived` (basis): a figure says how it is known"
            )
        return self

    @property
    def source(self) -> str:
        """How it is known, for a person."""
        if self.measured is not None:
            return f"measured {self.measured.date} on {self.measured.machine} with `{self.measured.command}`"
        assert self.derived is not None
        return f"NOT MEASURED: {self.derived.basis}"


class Share(_Strict):
    """The share of a published peak that a GPU is assumed to reach where nobody has measured."""

    share: float = Field(gt=0.0, le=1.0)
    of: Literal["bfloat16", "float32", "bandwidth"]
    what: Text
    basis: Text


class Gpu(_Strict):
    """One kind of GPU: the vendor's figures, and what was measured on it."""

    memory_gb: Amount
    bfloat16_tflops: Amount
    """Dense, on tensor cores."""
    float32_tflops: Amount
    """Without TF32: the searches need full float32."""
    bandwidth_gb_s: Amount
    source: Text
    rates: dict[DeviceRate, Rate] = {}

    def peak(self, of: str) -> float:
        """Operations or bytes a second."""
        if of == "bandwidth":
            return self.bandwidth_gb_s * 1e9
        return {"bfloat16": self.bfloat16_tflops, "float32": self.float32_tflops}[of] * 1e12


class Model(_Strict):
    """Shape of a backbone."""

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    ffn: Literal["mlp", "swiglu"] = "mlp"
    patch: int = Field(default=14, ge=1)
    registers: int = Field(default=0, ge=0)

    def transformer(self) -> Transformer:
        """For counting."""
        return Transformer(**self.model_dump())


class Rates(_Strict):
    """The whole file."""

    host: dict[HostRate, Rate]
    """Of one core, unless the unit says otherwise."""
    core: dict[DeviceRate, Rate]
    """Of one core, where there is no GPU."""
    fixed: dict[FixedRate, Rate]
    """Seconds of a stage that do not depend on its size, and of the start of Ray."""
    shares: dict[DeviceRate, Share]
    gpus: dict[str, Gpu] = Field(min_length=1)
    models: dict[str, Model] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> Rates:
        wanted = {"host": HostRate, "core": DeviceRate, "shares": DeviceRate, "fixed": FixedRate}
        for section, names in wanted.items():
            missing = sorted(set(get_args(names)) - set(getattr(self, section)))
            if missing:
                raise ValueError(f"{section} lacks {', '.join(missing)}")
        return self

    def gpu(self, name: str) -> Gpu:
        """Raises PlanError for one that is not in the file."""
        if name not in self.gpus:
            raise _unknown("GPU type", name, list(self.gpus), "gpus")
        return self.gpus[name]

    def model(self, name: str) -> Model:
        """Raises PlanError for one that is not in the file."""
        if name not in self.models:
            raise _unknown("model", name, [*self.models, "hog"], "models")
        return self.models[name]

    def of_gpu(self, gpu: str, name: DeviceRate) -> Rate:
        """What was measured on this kind of GPU, else an assumed share of its peak."""
        card = self.gpu(gpu)
        if name in card.rates:
            return card.rates[name]
        share = self.shares[name]
        unit = "B/s" if share.of == "bandwidth" else "FLOP/s"
        basis = (
            f"assumed {share.share:.0%} of the {card.peak(share.of) / 1e12:.3g} T{unit} ({share.of}) in {card.source}; "
            f"{share.basis}"
        )
        return Rate(
            value=share.share * card.peak(share.of), unit=f"{unit}/GPU", what=share.what, derived=Derived(basis=basis)
        )


def load_rates(path: str | None = None) -> Rates:
    """The rates that come with the package, with the entries of the YAML file `path` in their places.

    The file has the same sections and may hold any part of them: a GPU, a model, a single rate. Raises PlanError with
    one line a fault.
    """
    content = _read(resources.files("icce_ray.planning").joinpath("rates.yaml").read_text(), "rates.yaml")
    name = "rates.yaml"
    if path is not None:
        name = f"--rates {path}"
        try:
            text = read_regular(path)
        except (OSError, DocumentError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error
            raise PlanError(
                f"{name}: {reason}; give a YAML file with sections of {', '.join(Rates.model_fields)}"
            ) from error
        content = _merged(content, _read(text, name), name)
    try:
        return Rates.model_validate(content)
    except ValidationError as error:
        raise PlanError("\n".join(f"{name}: {_explain(fault)}" for fault in error.errors())) from None


def _read(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except DocumentError as error:
        raise PlanError(f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise PlanError(f"{name}: holds {type(content).__name__}, not sections; give {', '.join(Rates.model_fields)}")
    return content


def _merged(ours: dict[str, Any], given: dict[str, Any], name: str) -> dict[str, Any]:
    """Entries of `given` in the place of ours: a rate, a model or a share as a whole, a GPU field by field."""
    merged = {section: dict(entries) for section, entries in ours.items()}
    for section, entries in given.items():
        if not isinstance(entries, dict):
            raise PlanError(f"{name}: {section} holds {entries!r}, not named entries")
        into = merged.setdefault(section, {})
        for key, entry in entries.items():
            card = section == "gpus" and isinstance(into.get(key), dict) and isinstance(entry, dict)
            into[key] = _card(into[key], entry) if card else entry
    return merged


def _card(ours: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return ours | given | {"rates": (ours.get("rates") or {}) | (given.get("rates") or {})}


def _explain(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    message = fault["msg"].removeprefix("Value error, ")
    shown = (
        "" if isinstance(fault["input"], dict | Rates) or fault["type"] == "value_error" else f" = {fault['input']!r}"
    )
    return f"{where}{shown}: {message}" if where else message


def _unknown(kind: str, name: str, known: list[str], section: str) -> PlanError:
    hint = did_you_mean(name, known)
    return PlanError(
        f"no rates for the {kind} {name!r}; {hint}known: {', '.join(known)}; give your own with --rates FILE, a YAML "
        f"file with an entry {section}.{name} as in icce_ray/planning/rates.yaml"
    )
