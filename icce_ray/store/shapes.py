"""What the figures in markers and `metrics.json` are: types of those that are there, none of which need be.

What a stage of this version always writes is in `REQUIRED`; other versions may have more or less.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # that of typing is taken from Python 3.12 on only

from icce_ray.documents import DocumentError, shaped
from icce_ray.settings.models import Format

Count = Annotated[int, Field(ge=0, lt=2**62)]
Several = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0.0)]


class RejectRow(TypedDict):
    """One rejected input, as the first of them are kept."""

    uri: str
    reason: str
    detail: str | None


class Alarm(TypedDict):
    """One collapse alarm."""

    text: str


class FoundSource(TypedDict):
    """What was found of the source while listing."""

    format: Format
    column: str | None
    key_column: str | None


class Counts(TypedDict, total=False):
    """Inputs that went through a backbone."""

    images: Count
    ok: Count
    rejected: Count
    rejected_by_reason: dict[str, Count]
    first_rejects: list[RejectRow]


class Listed(TypedDict, total=False):
    """Of stage `list`."""

    images: Count
    bytes: Count
    left_out: dict[str, Count]
    source: FoundSource
    digest: str


class Embedded(Counts, total=False):
    """Of stage `embed`."""

    dim: Several
    block_dim: Count
    layout: Annotated[dict[str, tuple[Count, Count]], Field(min_length=1)]


class Sampled(TypedDict, total=False):
    """Of stage `sample`."""

    images: Count
    of: Count
    seed: Count


class Mined(TypedDict, total=False):
    """Of stage `neighbors`."""

    images: Count
    pairs: Count
    mean_neighbors: Share
    share_at_k_min: Share
    threshold: float
    k_min: Several
    k_max: Several
    clusters: Several


class Trained(TypedDict, total=False):
    """Of stage `heads`."""

    epochs: Several
    heads: Several
    best_head: Count
    temi: list[float]
    alarms: list[Alarm]


class Agreed(TypedDict, total=False):
    """Of stage `consensus`."""

    method: str
    scores: dict[str, float]
    refused: dict[str, str]
    anmi: float
    votes: Count
    mean_agreement: float
    cluster_sizes: Annotated[list[Count], Field(min_length=1)]
    alarms: list[Alarm]


class Fitted(TypedDict, total=False):
    """Of stage `classifier`."""

    input: str
    learning_rate: float
    heldout_accuracy: float
    heldout_images: Count
    classifiers: Count


class Labelled(Counts, total=False):
    """Of stage `predict`."""

    labelled: Count
    class_sizes: Annotated[list[Count], Field(min_length=1)]
    mean_confidence: float


class Scores(TypedDict):
    """One labelling against true labels."""

    acc: float
    nmi: float
    ari: float
    images: Count


class TrueClass(TypedDict):
    """The true class that is most frequent in a class."""

    share: float


class Confusion(TypedDict):
    """Two true classes that were taken for each other."""

    label: Count
    images: Count
    true: Any
    taken_for: Any


class Evaluated(TypedDict, total=False):
    """Of `icce evaluate`."""

    kmeans: Scores
    mean_head: Scores
    best_head: Scores
    consensus: Scores
    classifier_seen: Scores
    classifier_rest: Scores
    classifier_unseen: Scores
    classes: list[TrueClass | None]
    confused: list[Confusion]


SHAPES: dict[str, Any] = {
    "list": Listed,
    "embed": Embedded,
    "sample": Sampled,
    "neighbors": Mined,
    "heads": Trained,
    "consensus": Agreed,
    "classifier": Fitted,
    "predict": Labelled,
    "evaluation": Evaluated,
}
#: Figures that `icce verify` cannot do without.
REQUIRED = {"list": ("images",), "embed": ("images", "ok", "rejected", "rejected_by_reason", "dim")}
REQUIRED |= {"neighbors": ("k_min", "k_max"), "consensus": ("cluster_sizes",), "predict": ("class_sizes",)}


def check_figures(section: str, figures: Any) -> None:
    """Raise DocumentError unless the figures of a stage, or of `evaluation`, are of their types."""
    if section in SHAPES:
        shaped(SHAPES[section], figures)
    elif not isinstance(figures, dict):
        raise DocumentError(f"{section} holds no figures, but {type(figures).__name__}")
