"""Types of the figures in markers and `metrics.json`. None need be there, and other versions may have others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on only

from icce_ray.documents import DocumentError, shaped
from icce_ray.settings.models import Format
from icce_ray.store.artifacts import STAGES

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


class Figures(TypedDict, total=False):
    """Of a stage; the same name means the same in each."""

    images: Count
    bytes: Count
    left_out: dict[str, Count]
    source: _Source
    digest: str
    ok: Count
    rejected: Count
    rejected_by_reason: dict[str, Count]
    first_rejects: list[_Reject]
    dim: Positive
    block_dim: Count
    layout: Annotated[dict[str, tuple[Count, Count]], Field(min_length=1)]
    of: Count
    seed: Count
    pairs: Count
    mean_neighbors: NotNegative
    share_at_k_min: NotNegative
    threshold: float
    k_min: Positive
    k_max: Positive
    clusters: Positive
    epochs: Positive
    heads: Positive
    best_head: Count
    temi: list[float]
    alarms: list[_Alarm]
    method: str
    scores: dict[str, float]
    refused: dict[str, str]
    anmi: float
    votes: Count
    mean_agreement: float
    cluster_sizes: Sizes
    input: str
    learning_rate: float
    heldout_accuracy: float
    heldout_images: Count
    classifiers: Count
    labelled: Count
    class_sizes: Sizes
    mean_confidence: float


class Evaluation(TypedDict, total=False):
    """Of `icce evaluate`."""

    kmeans: _Scores
    mean_head: _Scores
    best_head: _Scores
    consensus: _Scores
    classifier_seen: _Scores
    classifier_rest: _Scores
    classifier_unseen: _Scores
    classes: list[_Class | None]
    confused: list[_Confusion]


def check_figures(section: str, figures: Any) -> None:
    """Raise DocumentError unless the figures of a stage, or of an evaluation, are of their types."""
    if section in STAGES or section == EVALUATION:
        kind: Any = Evaluation if section == EVALUATION else Figures
        shaped(kind, figures)
    elif not isinstance(figures, dict):
        raise DocumentError(f"{section} holds no figures, but {type(figures).__name__}")
