"""`decisions.json`: what people decided about the classes of a report, as its page saves it and `icce refine` reads it.

This is the only place of its form. Class numbers are those of the page, of the run or of one of its versions.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from icce_ray.documents import DocumentError, parse_json, shaped, shown
from icce_ray.io.locations import retried
from icce_ray.io.stores import info, read_whole, resolve
from icce_ray.store.markers import UsageError

#: Bytes of a file, images that are moved one by one, characters of a name, parts of a class.
MOST_BYTES, MOST_MOVES, LONGEST_NAME, MOST_PARTS = 1 << 26, 100_000, 200, 100

_Class = Annotated[int, Field(ge=0, lt=2**31)]
_Key = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
_Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Of(_Model):
    """Whose classes they are: `predictions` is `versions.labelling` of the run (version 0) or of a version."""

    predictions: Annotated[str, Field(min_length=1, max_length=64)]
    version: Annotated[int, Field(ge=0, lt=2**31)]
    classes: Annotated[int, Field(ge=1, lt=2**31)]


class Move(_Model):
    """One image, and the class it belongs to."""

    image_id: Annotated[int, Field(ge=0, lt=2**62)]
    key: str
    to: _Class


class Decisions(_Model):
    """Everything that was decided. `merge` groups are disjoint; a class is merged, split or rejected, or none of it."""

    format: Literal["icce-decisions"]
    version: Literal[1]
    run: Of
    rename: dict[_Key, _Name] = {}
    merge: list[Annotated[list[_Class], Field(min_length=2)]] = []
    split: dict[_Key, Annotated[int, Field(ge=2, le=MOST_PARTS)]] = {}
    reject: list[_Class] = []
    move: Annotated[list[Move], Field(max_length=MOST_MOVES)] = []

    @field_validator("rename")
    @classmethod
    def _printable(cls, names: dict[str, str]) -> dict[str, str]:
        for label, name in names.items():
            if not name.strip() or not name.isprintable():
                raise ValueError(f"class {label} is named {shown(name)}; give visible characters on one line")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        touched = [("merge", label) for group in self.merge for label in group]
        touched += [("split", int(label)) for label in self.split] + [("reject", label) for label in self.reject]
        for label, times in Counter(label for _, label in touched).items():
            if times > 1:
                where = " and ".join(dict.fromkeys(name for name, one in touched if one == label))
                raise ValueError(
                    f"class {label} is there {times} times in {where}; a class may be in one group of merge, or in "
                    "split, or in reject: leave one"
                )
        for image, times in Counter(one.image_id for one in self.move).items():
            if times > 1:
                raise ValueError(f"image_id {image} is moved {times} times; leave one")
        return self

    @property
    def empty(self) -> bool:
        """Whether nothing was decided."""
        return not (self.rename or self.merge or self.split or self.reject or self.move)

    def content(self) -> dict[str, Any]:
        """Plain values in one order, whatever the order of the file was: the same decisions give the same."""
        values = self.model_dump(mode="json")
        by_number = {name: dict(sorted(values[name].items(), key=lambda one: int(one[0]))) for name in _NAMED}
        return (
            values
            | by_number
            | {
                "merge": sorted(sorted(group) for group in self.merge),
                "reject": sorted(self.reject),
                "move": sorted(values["move"], key=lambda one: one["image_id"]),
            }
        )

    def digest(self) -> str:
        """Of `content`."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:16]

    def gone(self, images: Collection[int]) -> list[str]:
        """One line for each decision about what is not there: classes from `run.classes` on, and these images."""
        classes, lines = self.run.classes, []
        for name in _NAMED:
            lines += [f"{name} of class {label}" for label in getattr(self, name) if int(label) >= classes]
        for group in self.merge:
            lines += [f"merge of {group}: class {label}" for label in group if label >= classes]
        lines += [f"reject of class {label}" for label in self.reject if label >= classes]
        for one in self.move:
            if one.image_id in images:
                lines.append(f"move of image {one.image_id}, {shown(one.key, 200)}")
            elif one.to >= classes:
                lines.append(f"move of image {one.image_id} to class {one.to}")
        return lines

    def without_gone(self, images: Collection[int]) -> Decisions:
        """The others; a merge keeps the classes that are there, if they are two at least."""
        classes = self.run.classes
        groups = [[label for label in group if label < classes] for group in self.merge]
        return self.model_copy(
            update={name: {key: of for key, of in getattr(self, name).items() if int(key) < classes} for name in _NAMED}
            | {
                "merge": [group for group in groups if len(group) > 1],
                "reject": [label for label in self.reject if label < classes],
                "move": [one for one in self.move if one.image_id not in images and one.to < classes],
            }
        )


_NAMED = ("rename", "split")


def read_decisions(location: str) -> Decisions:
    """The decisions of a file, a local path or URI. Raises UsageError, which names file, value, limit and remedy."""
    who = f"--decisions {shown(location, 300, plain=True)}"
    kind, size = info(location)
    if kind != "file":
        state = "no such file" if kind is None else "not a file"
        raise UsageError(f"{who}: {state}; give the file that the page of a report has saved")
    try:
        if size is not None and size > MOST_BYTES:
            raise DocumentError(f"it has {size:,} bytes, more than the {MOST_BYTES:,} that are read")
        content = parse_json(retried(lambda: read_whole(*resolve(location)), what=who), most=MOST_BYTES)
        found = shaped(Decisions, content)
    except DocumentError as error:
        raise UsageError(f"{who} cannot be used: {error}; correct it, or save it from the page again") from error
    if found.empty:
        raise UsageError(f"{who}: nothing was decided; rename, merge, split, reject or move something first")
    return found
