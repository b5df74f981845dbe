"""Settings from a YAML file, overrides and values, what is wrong with them in words, and all of them described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from icce_ray.documents import DocumentError, parse_yaml, read_yaml_map, shown
from icce_ray.settings.choosing import paper
from icce_ray.settings.models import Settings
from icce_ray.spelling import did_you_mean, nearest

#: The preset that is given in the place of a file.
PAPER = "paper"
#: Pydantic's faults by type, as what to do about them; the words in braces come with the fault.
_REMEDIES = {
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "literal_error": "give {expected}",
    "finite_number": "give a finite number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "string_type": "give text",
    "string_too_short": "give some text",
    "tuple_type": "give a list, e.g. [a, b]",
    "too_short": "give at least {min_length}",
}


M = TypeVar("M", bound=BaseModel)


class SettingsError(ValueError):
    """Settings that cannot be used; the message has one line for each fault."""


def load(values: dict[str, Any], *, config: str | None = None, overrides: list[str] | None = None) -> Settings:
    """Settings of a run from a YAML file or the preset `paper`, then `stage.field=value` overrides, then `values`.

    Later ones win. Raises SettingsError with one line a fault: the field, its value, what is allowed, the nearest
    known name.
    """
    return load_as(Settings, values, config=config, overrides=overrides)


def load_as(
    model: type[M], values: dict[str, Any], *, config: str | None = None, overrides: list[str] | None = None
) -> M:
    """As `load`, for another model whose fields are named as those of `Settings`."""
    try:
        merged = {} if config is None else paper() if config == PAPER else read_yaml_map(config)
    except DocumentError as error:
        raise SettingsError(
            f"--config {config}: {error}; give a YAML file of settings, with lines such as `clusters: 20`"
        ) from error
    for override in overrides or []:
        _apply(merged, override)
    _merge(merged, {key: value for key, value in values.items() if value is not None})
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(fault) for fault in error.errors())) from None


def unknown_setting(name: str) -> str:
    """What to say of a dotted name that is no setting: the nearest one, else those of its group, else the groups."""
    if hint := did_you_mean(name, [*FIELDS, *Settings.model_fields]):
        return f"unknown setting; {hint.rstrip()}"
    group = nearest(name.partition(".")[0], Settings.model_fields)
    inner = [one for one in FIELDS if one.startswith(f"{group}.")] if "." in name else []
    return f"unknown setting; settings are {', '.join(inner or Settings.model_fields)}"


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from ((f"{name}.{inner}", one) for inner, one in model.model_fields.items())
        else:
            yield name, field


#: All settings by dotted name, in the order of the models.
FIELDS = dict(_fields())


def _apply(merged: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    given = shown(override, plain=True)
    if not separator or not name.strip():
        raise SettingsError(f"--set {given}: give stage.field=value, e.g. --set heads.epochs=200")
    target = merged
    *stages, field = name.strip().split(".")
    for stage in stages:
        target = target.setdefault(stage, {})
        if not isinstance(target, dict):
            raise SettingsError(f"--set {given}: {stage} is no group of settings, but {shown(target)}")
    try:
        target[field] = parse_yaml(text)
    except DocumentError as error:
        raise SettingsError(f"--set {given}: the value cannot be read ({error}); quote it if it is text") from error


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Put `values` over `into`, field by field where both have a group."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(fault: Any) -> str:
    """One line: field, value, what is allowed, and what the field means."""
    name = shown(".".join(str(part) for part in fault["loc"]), plain=True)
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return _unknown(name, value)
    if kind == "value_error":  # our own words, which say everything
        message = fault["msg"].removeprefix("Value error, ")
        return f"{name}: {message}" if name else message
    if kind == "model_type":
        fields = [one for one in FIELDS if one.startswith(f"{name}.")]
        return f"{name} = {shown(value)}: this is a group of settings; give its fields: {', '.join(fields)}"
    places = (".".join(map(str, fault["loc"][:depth])) for depth in (1, 2))
    text = next((_line(FIELDS[place].description) for place in places if place in FIELDS), "")
    meaning = f" ({text.removesuffix('.')})" if text else ""
    if kind == "missing":
        return f"{name}: missing, and it has no default{meaning}"
    remedy = _REMEDIES.get(kind)
    message = remedy.format(**fault.get("ctx", {})) if remedy else _line(fault["msg"])
    return f"{name} = {shown(value)}: {message}{_meant(kind, value, message + meaning)}{meaning}"


def _unknown(name: str, value: Any) -> str:
    """A line for every field in an unknown group, whose names are then known in full."""
    if isinstance(value, dict) and value:
        return "\n".join(_unknown(f"{name}.{inner}", one) for inner, one in value.items())
    return f"{shown(name, plain=True)} = {shown(value)}: {unknown_setting(name)}"


def _meant(kind: str, value: Any, allowed: str) -> str:
    """The word that a mistyped one was meant to be, of those that `allowed` quotes."""
    words = re.findall(r"'([^']+)'", allowed) if kind == "literal_error" else re.findall(r"`(auto)`", allowed)
    return f"; {hint.rstrip()}" if isinstance(value, str) and (hint := did_you_mean(value, words)) else ""


def _line(error: object) -> str:
    return " ".join(str(error).split())


class Described(NamedTuple):
    """One setting in words. `default` is as `--set` would take it, or empty where there is none."""

    name: str
    default: str
    meaning: str
    choices: tuple[str, ...]


def described(name: str | None = None) -> list[Described]:
    """All settings, those of one group, or the one of that name. Raises SettingsError for any other name."""
    wanted = {one: field for one, field in FIELDS.items() if name is None or f"{one}.".startswith(f"{name}.")}
    if not wanted:
        raise SettingsError(f"{name}: {unknown_setting(str(name))}")
    return [
        Described(
            one,
            "" if field.is_required() else _written(field.default),
            _line(field.description),
            tuple(_choices(field.annotation)),
        )
        for one, field in wanted.items()
    ]


def _written(value: Any) -> str:
    """As YAML has it in a single line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    return "null" if value is None else str(value)


def _choices(annotation: Any) -> Iterator[str]:
    """The words of every Literal that an annotation is made of."""
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(inner)
        elif not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            yield from _choices(inner)
