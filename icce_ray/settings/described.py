"""All settings as a person asks for them: name, default, what it means, which words it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from icce_ray.settings.loading import SettingsError, setting_names, unknown_setting
from icce_ray.settings.models import Settings


class Described(NamedTuple):
    """One setting in words. `default` is as `--set` would take it, or empty where there is none."""

    name: str
    default: str
    meaning: str
    choices: tuple[str, ...]


def described(name: str | None = None) -> list[Described]:
    """All settings, those of one group, or the one of that name. Raises SettingsError for any other name."""
    wanted = [one for one in setting_names() if name is None or one == name or one.startswith(f"{name}.")]
    if not wanted:
        raise SettingsError(f"{name}: {unknown_setting(str(name))}")
    return [_described(one) for one in wanted]


def _described(name: str) -> Described:
    model: Any = Settings
    *groups, last = name.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
    field = model.model_fields[last]
    default = "" if field.is_required() else _written(field.default)
    return Described(name, default, " ".join((field.description or "").split()), tuple(_choices(field.annotation)))


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
