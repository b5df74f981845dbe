"""A map for a run that has been made up: places of its images, as stage `inspect` writes them."""

import numpy as np
import pyarrow as pa

from icce_ray.store import Store
from icce_ray.store.artifacts import MAP, PREDICTIONS


def with_map(store: Store, places=None) -> pa.Table:
    """Give a run a map of all its images, at `places` float32[n, 2] or around a place of their class; returns it."""
    files = PREDICTIONS.files(store.require("predict").files)
    table = pa.concat_tables([store.storage.read_table(info.path) for info in files]).sort_by("image_id")
    if places is None:
        random, label = np.random.default_rng(0), table["label"].to_numpy()
        angle = label * 2 * np.pi / (label.max() + 1)
        places = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + random.normal(size=(len(label), 2))
    columns = {name: table[name].combine_chunks() for name in ("image_id", "uri", "key", "label")}
    found = pa.table(columns | dict(zip("xy", np.asarray(places, np.float32).T, strict=True)))
    marker = store.marker(MAP.stage)
    files = [info for info in (marker.files if marker else []) if info.path != MAP.path]
    summary, fingerprint = (marker.summary, marker.fingerprint) if marker else ({}, "made")
    written = MAP.write(store.storage, found)
    store.commit(MAP.stage, [*files, written], fingerprint=fingerprint, summary=summary, seconds=1.0)
    return found
