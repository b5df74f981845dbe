"""What a refined version changed: the decisions, and the images that have another class than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icce_ray.documents import DocumentError, opened_json
from icce_ray.report.pool import Section
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CHANGES_FILE
from icce_ray.store.markers import EVALUATION
from icce_ray.store.versions import Refinement, refinement_of, version_of

#: Flows between classes that are shown, the largest.
SHOWN = 20


def changes(store: Store) -> Section | None:
    """Values of the tab "Changes"; None for a run, and for a version that is not complete.

    `base`: what was decided about; `decisions`: (kind, classes before, classes now, images of each); `moved`: images
    moved by hand; `changed`: of all `images` those in no class that theirs has become; `flows` of these, the largest:
    (class before, class now, images), and how many `more`; `left_out`: lines; `scores`: (what, before, after) in
    percent.
    """
    refinement = refinement_of(store)
    if refinement is None or not store.storage.exists(CHANGES_FILE):
        return None
    others = [row for row in _flows(store) if row[1] not in refinement.parts[row[0]]]
    sizes = store.require("predict").summary["class_sizes"]
    data = {
        "base": f"version {refinement.base}" if refinement.base else "the run",
        "decisions": [[*row, [sizes[label] for label in row[2]]] for row in _decisions(refinement)],
        "names": {str(label): name for label, name in refinement.names.items()},
        "moved": len(refinement.moved),
        "changed": sum(row[2] for row in others),
        "images": sum(sizes),
        "flows": others[:SHOWN],
        "more": max(0, len(others) - SHOWN),
        "left_out": refinement.left_out,
        "scores": _scores(store, refinement),
    }
    return Section(data, np.empty(0, np.int64))


def _flows(store: Store) -> list[list[int]]:
    """(class before, class now, images), largest first. Raises RunError for a damaged file."""
    try:
        content = opened_json(store.storage.read_bytes(CHANGES_FILE))
    except DocumentError as error:
        raise RunError(
            f"{store.storage.uri(CHANGES_FILE)} is damaged ({error}); delete {store.root} and refine again"
        ) from error
    return content["flows"]


def _decisions(refinement: Refinement) -> list[tuple[str, list[int], list[int]]]:
    """(kind, classes before, classes now) of each class that was merged, split or rejected."""
    members: dict[int, list[int]] = {}
    for label, parts in enumerate(refinement.parts):
        members.setdefault(parts[0], []).append(label)
    merged = [("merged", labels, [new]) for new, labels in members.items() if len(labels) > 1]
    split = [("split", [label], parts) for label, parts in refinement.split.items()]
    rejected = [("rejected", members[label], [label]) for label in refinement.rejected]
    return [*merged, *split, *rejected]


def _scores(store: Store, refinement: Refinement) -> list[tuple[str, float, float]]:
    """ACC in percent before and after, where both were evaluated by the same labels."""
    base = version_of(Store(str(store.origin)), refinement.base)
    if refinement.base and refinement_of(base) is None:  # deleted since
        return []
    before, after = (one.metrics().get(EVALUATION, {}) for one in (base, store))
    if not before or before.get("labels") != after.get("labels"):
        return []
    names: Mapping[str, Any] = {"classifier_seen": "classifier", "consensus": "consensus"}
    return [
        (text, 100 * before[name]["acc"], 100 * after[name]["acc"])
        for name, text in names.items()
        if name in before and name in after
    ]
