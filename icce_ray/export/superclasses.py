"""What heads say of the classes of a run, and the superclass of each: the tree of the classes, cut."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from icce_ray.core.hierarchy import MOST_CLASSES, cut
from icce_ray.store import RunError, Store, UsageError
from icce_ray.store.artifacts import HIERARCHY, Hierarchy

#: What to say where a run has none.
MISSING = f"no {HIERARCHY.path}: give the run's own `icce run` command again, which adds what is missing"


def hierarchy_of(store: Store) -> Hierarchy | None:
    """What heads say of classes and of each other; None for a run that was not inspected."""
    marker = store.marker(HIERARCHY.stage)
    made = marker is not None and any(HIERARCHY.holds(info.path) for info in marker.files)
    return cast(Hierarchy, store.document(HIERARCHY)) if made else None


def superclasses(store: Store, classes: int, count: int) -> NDArray[np.int32]:
    """The superclass of each class of a run, or of the run whose labels a prediction has, int32[classes].

    They are numbered by their smallest class; -1 is that of a class without images. Raises RunError for a run that has
    no tree, UsageError for a count that its tree cannot be cut to.
    """
    run = Store(str(store.prediction_file()["run"])) if store.holds_prediction() else store
    known = hierarchy_of(run)
    if known is None:
        raise RunError(f"{run.root} has {MISSING}")
    merges = known["merges"]
    if not merges and classes > MOST_CLASSES:
        raise RunError(f"{run.root} has {classes:,} classes, and no tree is made of more than {MOST_CLASSES:,}")
    try:
        return cut(merges, classes, count)
    except ValueError as error:
        raise UsageError(f"--superclasses {count}: {error}") from error
