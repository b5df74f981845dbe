"""Where the files of a run lie, and those of what belongs to it: its versions read most of theirs from the run."""

from __future__ import annotations

import re
from collections.abc import Callable

from icce_ray.io.overlay import Overlay
from icce_ray.io.storage import Storage
from icce_ray.store.artifacts import HIERARCHY, REFINED, RUN_FILE, STAGES, UPDATES, VERSIONS, folders_of

_VERSION = re.compile(rf"(?P<run>.+)/{VERSIONS}/[1-9][0-9]*(?P<update>/{UPDATES}/[0-9]+)?/*(?P<options>\?.*)?")


def storage_of(root: str, remedy: Callable[[str], str]) -> tuple[Storage, str | None]:
    """The files below a root, and the root that the rest is read from, None where all lies below the first.

    A version has labels, classifier, predictions and the tree of its classes for itself; all else is read from its
    run, and the images and features of its updates from the run's updates.
    """
    match = _VERSION.fullmatch(root)
    run = f"{match['run']}{match['options'] or ''}" if match else ""
    if match is None or not Storage(run).exists(RUN_FILE):
        return Storage(root, remedy=remedy), None
    below = f"{match['run']}{match['update'] or ''}{match['options'] or ''}"
    folders = frozenset(folder for stage in STAGES if stage not in REFINED for folder in folders_of(stage))
    return Overlay(root, below, folders, frozenset({HIERARCHY.path}), remedy=remedy), Storage(below).root
