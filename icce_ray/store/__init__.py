"""The run on storage: the only place that knows artifact names, completion markers and fingerprints.

A run is a directory at a URI. Every stage writes its files, each whole or not at all, and last its marker,
`<artifact>/_manifest.json`: a stage is complete when the marker stands. `run.yaml` holds the settings the run was
started with; the same directory never serves two.
"""

from __future__ import annotations

from icce_ray.store.fingerprints import fingerprint
from icce_ray.store.intact import check_content, check_files
from icce_ray.store.markers import Marker, RejectBudgetError, RunError, UsageError
from icce_ray.store.names import (
    ARTIFACTS,
    FURTHER_ARTIFACTS,
    HEAD_LABELS,
    MARKER,
    METRIC_LINES,
    METRICS_FILE,
    PREDICTION_FILE,
    REPORT,
    RUN_FILE,
    SWEEPS,
    TENSORBOARD,
    checkpoint_of,
)
from icce_ray.store.run import Store

__all__ = [
    "ARTIFACTS",
    "FURTHER_ARTIFACTS",
    "HEAD_LABELS",
    "MARKER",
    "METRICS_FILE",
    "METRIC_LINES",
    "PREDICTION_FILE",
    "REPORT",
    "RUN_FILE",
    "SWEEPS",
    "TENSORBOARD",
    "Marker",
    "RejectBudgetError",
    "RunError",
    "Store",
    "UsageError",
    "check_content",
    "check_files",
    "checkpoint_of",
    "fingerprint",
]
