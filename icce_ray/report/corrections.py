"""What the page must know of the run to correct its classes: whose labels they are, and what applies decisions."""

from __future__ import annotations

import os
import shlex
from typing import Any

from icce_ray.store import Store
from icce_ray.store.refinement import FEWEST
from icce_ray.store.versions import labelling


def correctable(store: Store, names: str | None = None) -> dict[str, Any] | None:
    """The values of `data-run`, or None where the run has no predictions, whose classes alone can be corrected.

    `names` is the file of names that the page shows, which its decisions need as well.

    predictions, version, classes: `run` of the file of decisions. images: image_ids are below. part: the fewest
    images of a part of a class that is split. command: the next one.
    """
    if store.marker("predict") is None:
        return None
    command = f"icce refine {shlex.quote(store.origin or store.root)} --decisions decisions.json"
    if names is not None:
        command += f" --names {shlex.quote(names if '://' in names else os.path.abspath(names))}"
    images = store.require("embed").summary["images"]
    return labelling(store) | {"images": images, "part": FEWEST, "command": command}
