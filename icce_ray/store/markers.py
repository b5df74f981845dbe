"""What says that a stage is complete, and the errors of runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from icce_ray.adapters.storage import FileInfo


class RunError(RuntimeError):
    """A run that cannot go on as asked; the message says what stands in the way and what to do."""


class UsageError(RunError):
    """What was asked for cannot be of any run: the command line is wrong."""


class RejectBudgetError(RunError):
    """More inputs were rejected than the budget allows; what the others gave is complete."""


@dataclass(frozen=True)
class Marker:
    """What `_manifest.json` says of a complete stage."""

    stage: str
    fingerprint: str
    files: list[FileInfo]
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = ""

    def rows_of(self, prefix: str) -> list[FileInfo]:
        """The files below a directory of the artifact, in the order of their names."""
        return sorted((info for info in self.files if info.path.startswith(prefix)), key=lambda info: info.path)
