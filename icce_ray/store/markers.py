"""What says that a stage is complete, what its result depends on, and the errors of runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from icce_ray.documents import DocumentError, Moment, shaped, shown
from icce_ray.io.locations import child
from icce_ray.io.storage import FileInfo
from icce_ray.settings import Settings
from icce_ray.store.artifacts import STAGES, in_order
from icce_ray.store.figures import check_figures
from icce_ray.store.seals import opened_json, sealed_json


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


def _possible(info: FileInfo) -> FileInfo:
    child(info.path)  # ValueError for a path that leads out of the run
    if not (info.rows is None or 0 <= info.rows < 2**62) or not 0 <= info.bytes < 2**62:
        raise ValueError("rows and bytes are counts")
    if info.rows is None and info.path.endswith(".parquet"):
        raise ValueError("a Parquet file has rows")
    return info


@dataclass(frozen=True)
class Marker:
    """What `_manifest.json` says of a complete stage; `files` are in the order of `artifacts.in_order`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stage: str
    fingerprint: str
    files: list[Annotated[FileInfo, AfterValidator(_possible)]]
    summary: dict[str, Any]
    seconds: Annotated[float, Field(ge=0.0)]
    finished: Moment

    @classmethod
    def read(cls, data: bytes) -> Marker:
        """From the file's content. Raises DocumentError for one that is damaged or of another version."""
        marker = shaped(cls, opened_json(data))
        if marker.stage not in STAGES:
            raise DocumentError(f"stage = {shown(marker.stage)}: no stage of this version")
        check_figures(marker.stage, marker.summary)
        return replace(marker, files=in_order(marker.files), summary=Summary(marker.summary))

    def data(self) -> bytes:
        """The file's content, with a checksum of itself."""
        return sealed_json(asdict(self))


# -- fingerprints --------------------------------------------------------------------------------------------------


def fingerprint(settings: Settings, stage: str) -> str:
    """Digest of all settings that the stage's result depends on, those of the stages before it included."""
    values = settings.defining()
    digest = hashlib.sha256()
    for name, declared in STAGES.items():
        own = {key: _value(values, key) for key in declared.settings}
        digest.update(json.dumps(own, sort_keys=True).encode())
        if name == stage:
            return digest.hexdigest()[:16]
    raise ValueError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}")


def _value(values: dict[str, Any], name: str) -> Any:
    """The setting of a dotted name."""
    for part in name.split("."):
        values = values[part]
    return values


def differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of all leaves that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        different = []
        for key in now | before:
            different += differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
        return different
    return [] if before == now else [(prefix, before, now)]
