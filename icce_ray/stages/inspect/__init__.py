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
from icce_ray.stages.inspect import duplicates, hierarchy, outliers, quality
from icce_ray.store import Store
from icce_ray.store.artifacts import FINDINGS

Part = Callable[[Settings, Store, Resources, Progress], StageResult]
"""Files, and figures for `findings.json`."""

#: In the order in which they work; a name is that of the figures.
PARTS: dict[str, Part] = {
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
        written, found[name] = part(settings, store, resources, progress)
        files += written
    progress.update(len(PARTS))
    store.storage.write_bytes(FINDINGS.path, json.dumps(found, indent=1).encode())
    return [*files, store.storage.describe(FINDINGS.path)], found
