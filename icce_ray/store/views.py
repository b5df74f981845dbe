"""Feature spaces of a run: one, or several side by side in the columns of the features, and all of them joined.

The features of an image are one row, whatever the number of models or columns that they came from. Where these are
several, neighbours and heads are made of each of them and of the joined space (`core.spaces`), in which the cosine of
two images is the weighted mean of their cosines in all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icce_ray.io.storage import Storage
from icce_ray.store.artifacts import PROJECTION

#: Name of the space of all features.
JOINED = "joined"

Spans = Mapping[str, tuple[int, int]]
"""Columns of each of several spaces in the stored features; empty where there is one only."""


@dataclass(frozen=True)
class View:
    """Some columns of the stored features and what neighbours and heads see of them.

    Attributes:
        space: whose projection is applied.
        start, stop: its columns.
        components: of the projection; 0 leaves the columns as they are.
        weight: in the joined space; without any, all count the same.
    """

    space: str
    start: int
    stop: int
    components: int = 0
    weight: float | None = None

    @property
    def width(self) -> int:
        """Numbers that are seen."""
        return self.components or self.stop - self.start


def is_precomputed(layout: dict[str, list[int]]) -> bool:
    """Whether features of this layout, as the figures of stage `embed` have it, come from elsewhere."""
    return all(name.rpartition(".")[2] == "features" for name in layout)


def space_names(given: Iterable[str]) -> list[str]:
    """Names for spaces of these models or columns, which serve as folders: `hog`, `dinov2-base`; each is another's."""
    names: list[str] = []
    for one in given:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", one.rstrip("/").rpartition("/")[2]).strip("-_") or "space"
        taken = {JOINED, *names}
        names.append(next(new for new in _numbered(name) if new not in taken))
    return names


def _numbered(name: str) -> Iterable[str]:
    yield name
    yield from (f"{name}-{number}" for number in range(2, 10_000))


def spaces_of(embedded: Mapping[str, Any]) -> tuple[str, ...]:
    """The spaces that neighbours and heads are made of, by the figures of stage `embed`: "" where there is one only."""
    return (*embedded["spaces"], JOINED) if embedded.get("spaces") else ("",)


def views_of(embedded: Mapping[str, Any], space: str, figures: Mapping[str, Mapping[str, Any]]) -> tuple[View, ...]:
    """What is seen of the features in a space; none says that they are seen as they are stored.

    `figures` of spaces may have `components` and `weight`; without, a space is seen as it is and counts as any other.
    """
    if not space:
        components = figures.get("", {}).get("components", 0)
        return (View("", 0, embedded["dim"], components),) if components else ()
    spans: Spans = embedded["spaces"]
    own = spans if space == JOINED else {space: spans[space]}
    known = {name: figures.get(name, {}) for name in own}
    return tuple(
        View(name, *span, known[name].get("components", 0), known[name].get("weight")) for name, span in own.items()
    )


def widths_of(embedded: Mapping[str, Any], space: str, figures: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Numbers that are seen of an image in a space; of the joined space those of each that it is made of."""
    return [view.width for view in views_of(embedded, space, figures)] or [embedded["dim"]]


def figures_of(mined: Mapping[str, Any], space: str) -> Mapping[str, Any]:
    """Of the figures of stage `neighbors` those of a space."""
    return mined if space in ("", JOINED) else mined["by_space"][space]


def most_heads(space: str, heads: int) -> int:
    """How many of the heads a space has at most; of several the joined one has half of them, rounded up."""
    return heads if not space else heads - heads // 2 if space == JOINED else max(1, heads // 2)


def seen(storage: Storage, views: tuple[View, ...]) -> Callable[[NDArray[np.float16]], NDArray[np.float16]]:
    """The function from stored features [n, D] to what is seen of them, with the projections of a run."""
    if not views:
        return lambda values: values
    from icce_ray.core.projection import Projection  # and torch, which only some readers of rows need
    from icce_ray.core.spaces import join

    projections = [
        Projection(**storage.read_tensors(PROJECTION.of(view.space).path)) if view.components else None
        for view in views
    ]

    given = [view.weight for view in views if view.weight is not None]
    weights = given if len(given) == len(views) else None

    def viewed(values: NDArray[np.float16]) -> NDArray[np.float16]:
        parts = [
            values[:, view.start : view.stop] if one is None else one.of_array(values[:, view.start : view.stop])
            for view, one in zip(views, projections, strict=True)
        ]
        return parts[0] if len(parts) == 1 else join(parts, weights)

    return viewed
