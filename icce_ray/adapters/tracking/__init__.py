"""Figures of a run to those who follow it: `metrics.jsonl`, TensorBoard, MLflow, Weights & Biases.

`metrics.jsonl` has every line, and is what the others are told from: what a killed run had told, or what `--redo` takes
back, is known from there. All is written and sent by one thread of the driver; who tells a figure waits for nothing.
"""

from icce_ray.adapters.tracking.lines import Line, read_lines, scalars
from icce_ray.adapters.tracking.sinks import PACKAGES, RunNote, Sink, TrackingError, make_sink, missing_packages
from icce_ray.adapters.tracking.steps import StepLog
from icce_ray.adapters.tracking.tracker import Tracker

__all__ = [
    "PACKAGES",
    "Line",
    "RunNote",
    "Sink",
    "StepLog",
    "Tracker",
    "TrackingError",
    "make_sink",
    "missing_packages",
    "read_lines",
    "scalars",
]
