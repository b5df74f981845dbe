"""Runs and predictions as they stand after listing and labelling, made without a cluster."""

import numpy as np
import pyarrow as pa

from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.stages import listing
from icce_ray.store import Store
from icce_ray.store.artifacts import PREDICTIONS


def run_of(root, location, *overrides):
    """A run that has listed its source, three images a shard of the manifest."""
    store = Store(str(root))
    store.claim(load({"source": location, "clusters": 2, "out": store.root}, overrides=list(overrides)))
    return listed(store, location)


def prediction_of(root, run, location):
    """What `icce predict` has written so far: its source is listed."""
    store = Store(str(root))
    store.claim_prediction({"run": run.root, "classifier": "c", "source": location})
    return listed(store, location)


def listed(store, location):
    files, summary = listing.run(find_source(SourceSpec(location)), store, Progress(), rows_per_shard=3)
    store.commit("list", files, fingerprint="x", summary=summary, seconds=0)
    return store


def labelled(store, labels, *, classes):
    """Predictions for the first images listed, a shard for each of the manifest; a label None is a reject."""
    files = []
    for shard, info in enumerate(store.require("list").files):
        table = store.storage.read_table(info.path).select(["image_id", "uri", "key"])
        given = [labels[image_id] for image_id in table["image_id"].to_pylist()]
        table = table.append_column("label", pa.array(given, pa.int64())).filter(
            pa.array([g is not None for g in given])
        )
        confidence = 0.7 + 0.01 * table["image_id"].to_numpy()
        table = table.append_column("confidence", pa.array(confidence.astype(np.float32)))
        files.append(store.storage.write_table(PREDICTIONS.part(shard), table))
    sizes = np.bincount([label for label in labels if label is not None], minlength=classes).tolist()
    store.commit("predict", files, fingerprint="x", summary={"class_sizes": sizes}, seconds=0)
    return store
