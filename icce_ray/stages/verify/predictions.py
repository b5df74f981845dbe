"""What `icce predict` has written for a new source: every input is there once, labelled or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from icce_ray.stages.verify.images import check_counts, check_names, wrong_ids
from icce_ray.stages.verify.reading import Manifest, Unfit, columns
from icce_ray.stages.verify.results import check_labels
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import PREDICTION_REJECTS, PREDICTIONS


def check_predictions(store: Store, marker: Marker, manifest: Manifest) -> Iterator[str]:
    """Labels as in a run, for as many classes as the marker counts; rejects beside them."""
    accepted, refused = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    reasons: Counter[str] = Counter()
    lines = list(check_labels(store, PREDICTIONS, marker, manifest, len(marker.summary["class_sizes"]), accepted))
    for info in PREDICTION_REJECTS.files(marker.files):
        try:
            table = columns(store, "predict", info.path, image_id=pa.types.is_int64, reason=pa.types.is_string)
        except Unfit as error:
            lines.append(str(error))
            continue
        refused.append(table["image_id"].to_numpy())
        reasons.update(table["reason"].to_pylist())
        lines += check_names("predict", info.path, table, manifest)
    yield from lines
    yield from wrong_ids("predict", np.concatenate(accepted), np.concatenate(refused), len(manifest))
    yield from check_counts("predict", marker.summary, sum(map(len, accepted)), reasons)
