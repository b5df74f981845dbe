"""What says that a stage is complete, and the errors of runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from icce_ray.documents import DocumentError, Moment, shaped, shown
from icce_ray.io.locations import child
from icce_ray.io.storage import FileInfo
from icce_ray.store.names import ARTIFACTS
from icce_ray.store.seals import opened_json, sealed_json
from icce_ray.store.shapes import check_figures


class RunError(RuntimeError):
    """A run that cannot go on as asked; the message says what stands in the way and what to do."""


class UsageError(RunError):
    """What was asked for cannot be of any run: the command line is wrong."""


class RejectBudgetError(RunError):
    """More inputs were rejected than the budget allows; what the others gave is complete."""


class Summary(dict[str, Any]):
    """The figures of a stage; one that is missing, as in a marker of another version, is a RunError."""

    def __missing__(self, name: str) -> Any:
        raise RunError(
            f"a marker of the run says nothing of {name!r}: it is damaged or of another version; `icce verify` names "
            "it, and --redo STAGE repeats the run from its stage on"
        )


def _known(info: FileInfo) -> FileInfo:
    child(info.path)  # ValueError for a path that leads out of the run
    if not (info.rows is None or 0 <= info.rows < 2**62) or not 0 <= info.bytes < 2**62:
        raise ValueError("rows and bytes are counts")
    if info.rows is None and info.path.endswith(".parquet"):
        raise ValueError("a Parquet file has rows")
    return info


@dataclass(frozen=True)
class Marker:
    """What `_manifest.json` says of a complete stage."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stage: str
    fingerprint: str
    files: list[Annotated[FileInfo, AfterValidator(_known)]]
    summary: dict[str, Any]
    seconds: Annotated[float, Field(ge=0.0)]
    finished: Moment

    @classmethod
    def read(cls, data: bytes) -> Marker:
        """From the file's content. Raises DocumentError for one that is damaged or of another version."""
        marker = shaped(cls, opened_json(data))
        if marker.stage not in ARTIFACTS:
            raise DocumentError(f"stage = {shown(marker.stage)}: no stage of this version")
        check_figures(marker.stage, marker.summary)
        return replace(marker, summary=Summary(marker.summary))

    def data(self) -> bytes:
        """The file's content, with a checksum of itself."""
        return sealed_json(asdict(self))

    def rows_of(self, prefix: str) -> list[FileInfo]:
        """The files below a directory of the artifact, in the order of their names."""
        return sorted((info for info in self.files if info.path.startswith(prefix)), key=lambda info: info.path)
