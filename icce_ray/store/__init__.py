"""The run on storage: its artifacts, completion markers, fingerprints, and the settings it is bound to.

A run is a directory at a URI. Every stage writes its files, each whole or not at all, and last its marker,
`<folder>/_manifest.json`: a stage is complete when the marker stands. `run.yaml` holds the settings the run was
started with; the same directory never serves two.
"""

from __future__ import annotations

from icce_ray.store.checks import check_content, check_files
from icce_ray.store.markers import Marker, RejectBudgetError, RunError, UsageError, fingerprint
from icce_ray.store.run import Store

__all__ = [
    "Marker",
    "RejectBudgetError",
    "RunError",
    "Store",
    "UsageError",
    "check_content",
    "check_files",
    "fingerprint",
]
