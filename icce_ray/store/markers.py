"""What says that a stage is complete, with its figures; what its result depends on; and the errors of runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on only

from icce_ray.documents import DocumentError, Moment, opened_json, sealed_json, shaped
from icce_ray.io.locations import child
from icce_ray.io.storage import FileInfo
from icce_ray.settings import Settings
from icce_ray.settings.choosing import identity
from icce_ray.settings.stages import Format
from icce_ray.store.artifacts import STAGES
from icce_ray.store.shards import in_order


class RunError(RuntimeError):
    """A run that cannot go on as asked; the message says what stands in the way and what to do."""


class UsageError(RunError):
    """What was asked for cannot be of any run: the command line is wrong."""


class RejectBudgetError(RunError):
    """More inputs were rejected than the budget allows; what the others gave is complete."""


# -- figures: none need be there, and other versions may have others ---------------------------------------------------

#: The section of `metrics.json` that `icce evaluate` writes; the others are stages.
EVALUATION = "evaluation"

Count = Annotated[int, Field(ge=0, lt=2**62)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
NotNegative = Annotated[float, Field(ge=0.0)]
Sizes = Annotated[list[Count], Field(min_length=1)]


class _Source(TypedDict):
    format: Format
    column: str | None
    key_column: str | None


class _Reject(TypedDict):
    uri: str
    reason: str
    detail: str | None


class _Alarm(TypedDict):
    text: str


class _Scores(TypedDict):
    acc: float
    nmi: float
    ari: float
    images: Count


class _Class(TypedDict):
    share: float


class _Confusion(TypedDict):
    label: Count
    images: Count
    true: Any
    taken_for: Any


def _model(name: str, types: list[tuple[Any, str]]) -> type[BaseModel]:
    fields: dict[str, Any] = {field: (kind, None) for kind, names in types for field in names.split()}
    return create_model(name, **fields)


#: Of a stage; the same name means the same in each.
Figures = _model(
    "Figures",
    [
        (Count, "components images bytes of ok rejected block_dim seed pairs best_head votes heldout_images"),
        (Count, "classifiers labelled"),
        (Positive, "dim k_min k_max clusters epochs heads"),
        (NotNegative, "mean_neighbors share_at_k_min mean_cosine"),
        (float, "threshold anmi mean_agreement learning_rate heldout_accuracy mean_confidence"),
        (str, "digest method input"),
        (list[float], "temi"),
        (Sizes, "cluster_sizes class_sizes"),
        (dict[str, Count], "left_out rejected_by_reason"),
        (dict[str, float], "scores"),
        (dict[str, str], "refused"),
        (Annotated[dict[str, tuple[Count, Count]], Field(min_length=1)], "layout spaces head_spaces"),
        (dict[str, dict[str, Any]], "by_space"),
        (_Source, "source"),
        (list[_Reject], "first_rejects"),
        (list[_Alarm], "alarms"),
    ],
)
#: Of `icce evaluate`.
Evaluation = _model(
    "Evaluation",
    [
        (_Scores, "kmeans mean_head best_head consensus classifier_seen classifier_rest classifier_unseen"),
        (list[_Class | None], "classes"),
        (list[_Confusion], "confused"),
    ],
)


def check_figures(section: str, figures: Any) -> None:
    """Raise DocumentError unless the figures of a stage, or of an evaluation, are of their types."""
    if section in STAGES or section == EVALUATION:
        shaped(Evaluation if section == EVALUATION else Figures, figures)
    elif not isinstance(figures, dict):
        raise DocumentError(f"{section} holds no figures, but {type(figures).__name__}")


# -- markers ---------------------------------------------------------------------------------------------------------


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
        check_figures(marker.stage, marker.summary)
        return replace(marker, files=in_order(marker.files), summary=Summary(marker.summary))

    def data(self) -> bytes:
        """The file's content, with a checksum of itself."""
        return sealed_json(asdict(self))


# -- fingerprints --------------------------------------------------------------------------------------------------


def fingerprint(settings: Settings, stage: str) -> str:
    """Digest of all settings that the stage's result depends on, those of the stages before it included."""
    values = identity(settings)
    digest = hashlib.sha256()
    for name, declared in STAGES.items():
        own = {key: _value(values, key) for key in declared.settings}
        digest.update(json.dumps(own, sort_keys=True).encode())
        if name == stage:
            break
    return digest.hexdigest()[:16]


def fingerprints(settings: Settings) -> dict[str, str]:
    """`fingerprint` of every stage."""
    return {stage: fingerprint(settings, stage) for stage in STAGES}


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
