"""Stage `inspect`: what people look at when the classes are there; it changes none of them.

Each part reads what earlier stages have written, in Ray tasks, writes its own artifacts and gives figures by its name;
a part whose inputs a run does not have says why instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources
from icce_ray.stages.inspect import duplicates, hierarchy, layout, outliers, quality
from icce_ray.store import Store
from icce_ray.store.artifacts import FINDINGS

Part = Callable[[Settings, Store, Resources, Progress], StageResult]
"""Files, and figures for `findings.json`."""

#: In the order in which they work; a name is that of the figures.
PARTS: dict[str, Part] = {
    "map": layout.run,
    "hierarchy": hierarchy.run,
    "duplicates": duplicates.run,
    "outliers": outliers.run,
    "quality": quality.run,
}


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Do every part, and keep what they found."""
    files: list[FileInfo] = []
    found: dict[str, Any] = {}
    progress.begin(len(PARTS), unit="parts")
    for number, (name, part) in enumerate(PARTS.items()):
        progress.update(number, now=name)
        written, found[name] = part(settings, store, resources, _OfPart(progress, number, name))
        files += written
    progress.update(len(PARTS))
    store.storage.write_bytes(FINDINGS.path, json.dumps(found, indent=1).encode())
    return [*files, store.storage.describe(FINDINGS.path)], found


class _OfPart(Progress):
    """Progress of one part: beside its name stands the share of its own work that is done."""

    def __init__(self, whole: Progress, number: int, name: str) -> None:
        self._whole, self._number, self._name, self._total = whole, number, name, 0
        self.log = whole.log

    def begin(self, total: int, *, done: int = 0, unit: str) -> None:
        """The part has `total` units of its own."""
        self._total = total
        self.update(done)

    def update(self, done: int, **facts: Any) -> None:
        """`done` of its units."""
        share = f" {done / self._total:.0%}" if self._total else ""
        self._whole.update(self._number, **{"now": f"{self._name}{share}"} | facts)
