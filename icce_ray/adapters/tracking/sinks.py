"""What a tracker must do to be told of a run, and which there are."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from icce_ray.adapters.tracking.lines import Line
from icce_ray.io.storage import Storage

#: The package that each tracker needs.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


class TrackingError(RuntimeError):
    """A tracker that cannot be told; the message says which, why and what to do."""


@dataclass(frozen=True)
class RunNote:
    """What a tracker is told of the run itself."""

    id: str
    """Of this run since its last `--redo`, the same each time it is started."""
    name: str
    params: Mapping[str, Any]
    """Settings by dotted names."""


class Sink(Protocol):
    """One tracker. `open` is called by the main thread before any work, the rest by one other thread."""

    def open(self, run: RunNote, lines: Sequence[Line]) -> None:
        """Take up the run; `lines` are all that were told so far, to anyone, and will grow. Raises TrackingError."""
        ...

    def tell(self, lines: Sequence[Line]) -> None:
        """More lines, which the next reader shall see. Raises TrackingError or OSError."""
        ...

    def close(self, *, failed: bool) -> None:
        """The driver ends; the run may go on another time. Raises TrackingError or OSError."""
        ...


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the trackers whose package is not installed."""
    return [name for name in names if importlib.util.find_spec(PACKAGES[name]) is None]


def make_sink(name: str, *, storage: Storage, folder: str, experiment: str) -> Sink:
    """The tracker of a name in PACKAGES; `folder` below `storage` is for TensorBoard's files."""
    if name == "tensorboard":
        from icce_ray.adapters.tracking.tensorboard import TensorBoard

        return TensorBoard(storage, folder)
    if name == "mlflow":
        from icce_ray.adapters.tracking.mlflow_runs import MLflow

        return MLflow(experiment)
    if name == "wandb":
        from icce_ray.adapters.tracking.wandb_runs import WeightsAndBiases

        return WeightsAndBiases(experiment)
    raise ValueError(f"there is no tracker {name!r}; trackers are {', '.join(PACKAGES)}")
