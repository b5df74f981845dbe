"""Every file of a run, declared once: path, columns, the stage that writes it, and what must hold for its content.

Writers and readers take names and columns from here, `icce verify` checks them: a new artifact is one declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import (
    Any,
    NotRequired,  # pydantic takes those of `typing` from Python 3.12 on only
)

import pyarrow as pa
from pydantic import FiniteFloat
from typing_extensions import TypedDict

from icce_ray.store.declaring import Artifact, Column, Document, Stage, Table, Tensors


class ClassifierDescription(TypedDict):
    """What the classifier reads."""

    columns: list[tuple[int, int]]
    """Spans of the features side by side: `features` first, `cls_blocks` after them."""
    classes: int
    embed: NotRequired[dict[str, Any]]
    """How images become features."""


class Novelty(TypedDict):
    """Whether the classes of a run serve the images of an update; figures with their limits."""

    unsure: tuple[FiniteFloat, FiniteFloat]
    drift: tuple[FiniteFloat, FiniteFloat]
    far: FiniteFloat
    candidates: list[tuple[int, list[int]]]
    """About how many images each has, and the image_ids of those that are most central."""


class Hierarchy(TypedDict):
    """The classes as the heads see them: values of `core.hierarchy`."""

    merges: list[tuple[int, int, FiniteFloat]]
    """Those of `tree`, nearest first; none where there are too many classes."""
    nearest: list[list[tuple[int, FiniteFloat]]]
    """Of each class those that heads mix with it."""
    agreement: list[FiniteFloat | None]
    """Mean share of heads that agree on the images of each class."""
    pairs: list[list[FiniteFloat]]
    """NMI of the labels of each two heads, on `compared` images."""
    compared: int


def _label(sizes: str, share: str) -> dict[str, Column]:
    """Columns of a labelling: the label, and how sure it is."""
    label = Column(pa.int32(), within=(0, "clusters"), counted=sizes)
    return {"label": label, share: Column(pa.float32(), within=(0, 1))}


# -- stages, in the order of the run -------------------------------------------------------------------------------

STAGES = {
    "list": Stage(folder="manifest", settings=("source", "list"), figures=("images",)),
    "embed": Stage(
        folder="features", settings=("embed",), figures=("images", "ok", "rejected", "rejected_by_reason", "dim")
    ),
    "sample": Stage(folder="sample", settings=("heads.max_images", "heads.sample_seed")),
    "neighbors": Stage(folder="neighbors", settings=("clusters", "neighbors"), figures=("k_min", "k_max")),
    "heads": Stage(folder="heads", settings=("clusters", "seed", "heads")),
    "consensus": Stage(folder="consensus", settings=("clusters", "seed", "consensus"), figures=("cluster_sizes",)),
    "classifier": Stage(folder="classifier", settings=("clusters", "seed", "classifier")),
    "predict": Stage(folder="predictions", figures=("class_sizes",)),
    "inspect": Stage(folder="inspection", settings=("inspect",)),
}

# -- artifacts -----------------------------------------------------------------------------------------------------

_ID = {"image_id": Column(pa.int64())}
_KEY = {"key": Column(pa.string())}
_NAMES = {"uri": Column(pa.string())} | _KEY
#: What names an image in every table that has these columns: as the manifest does.
NAMES = tuple(_NAMES)
_PLACE = {"size": pa.int64(), "container": pa.string(), "position": pa.int64()}
_REASON = {"reason": Column(pa.string(), counted="rejected_by_reason"), "detail": Column(pa.string(), nulls=True)}
_FEATURES = {
    "features": Column(pa.float16(), width="dim", finite=True, directed=True),
    "cls_blocks": Column(pa.float16(), width="block_dim", finite=True, directed=True, optional=True),
}
#: The second most probable class; runs of 0.1.0 have none.
_RUNNER_UP = {
    "runner_up": Column(pa.int32(), within=(0, "clusters"), optional=True),
    "runner_up_confidence": Column(pa.float32(), within=(0, 1), optional=True),
}
_MEASURED = {
    "width": pa.int32(),
    "height": pa.int32(),
    "digest": pa.binary(16),
    "brightness": pa.float32(),
    "contrast": pa.float32(),
    "sharpness": pa.float32(),
    "picture_hash": pa.binary(32),
}
#: What `io.quality` measures of a picture. Features from elsewhere have none, nor those of icce-ray 0.1.
FIGURES = tuple(_MEASURED)
_LISTS = {"neighbor_ids": Column(pa.large_list(pa.int64())), "similarities": Column(pa.large_list(pa.float32()))}

MANIFEST = Table(
    stage="list",
    path="manifest",
    columns=_ID | _NAMES | {name: Column(kind, nulls=True) for name, kind in _PLACE.items()},
    rows="listed",
)
FEATURES = Table(
    stage="embed",
    path="features/status=ok",
    columns=_ID
    | _NAMES
    | _FEATURES
    | {name: Column(kind, optional=True, finite=pa.types.is_floating(kind)) for name, kind in _MEASURED.items()},
    rows="accepted",
)
REJECTS = Table(stage="embed", path="features/status=reject", columns=_ID | _NAMES | _REASON, rows="rejected")
#: No file where all accepted images are learned from.
SAMPLE = Table(stage="sample", path="sample", columns=_ID | _NAMES | _FEATURES, rows="learned", copies=FEATURES)
NEIGHBORS = Table(stage="neighbors", path="neighbors", columns=_ID | _KEY | _LISTS, rows="learned")
#: What `clusters: auto` and `neighbors.threshold: auto` were resolved from.
CLUSTERS_EVIDENCE = Document(stage="neighbors", path="neighbors/clusters.json", optional=True)
THRESHOLD_EVIDENCE = Document(stage="neighbors", path="neighbors/threshold.json", optional=True)
#: What each of several feature spaces is worth in the joined one.
SPACE_WEIGHTS = Document(stage="neighbors", path="neighbors/weights.json", type=dict[str, FiniteFloat], optional=True)
#: What neighbours and heads see of the features; no file where they see all.
PROJECTION = Tensors(
    stage="neighbors",
    path="neighbors/projection.safetensors",
    shapes={"mean": ("dim",), "directions": ("dim", "components")},
    absent="components",
)
HEAD_WEIGHTS = Tensors(
    stage="heads",
    path="heads/heads.safetensors",
    shapes={
        "hidden.weight": ("heads", "hidden", "seen"),
        "hidden.bias": ("heads", "hidden"),
        "bottleneck.weight": ("heads", "bottleneck", "hidden"),
        "bottleneck.bias": ("heads", "bottleneck"),
        "prototypes": ("heads", "clusters", "bottleneck"),
        "input.mean": ("seen",),
        "input.std": ("seen",),
    },
    absent="heads",
)
HEAD_LOSSES = Table(
    stage="heads",
    path="heads/losses.parquet",
    columns={
        "epoch": Column(pa.int64(), within=(0, "epochs")),
        "head": Column(pa.int64(), within=(0, "heads")),
        "temi": Column(pa.float32(), finite=True),
        "cross_entropy": Column(pa.float32(), finite=True),
    },
    length=("epochs", "heads"),
)
HEAD_LABELS = Table(
    stage="heads",
    path="head_labels",
    columns=_ID | _KEY | {"labels": Column(pa.int32(), width="heads", within=(0, "clusters"))},
    rows="learned",
)
CONSENSUS = Table(
    stage="consensus",
    path="consensus",
    columns=_ID | _NAMES | _label("cluster_sizes", "agreement"),
    rows="learned",
)
CONSENSUS_SCORES = Document(stage="consensus", path="consensus/scores.json", summary=True)
CLASSIFIER_DESCRIPTION = Document(stage="classifier", path="classifier/classifier.json", type=ClassifierDescription)
CLASSIFIER_WEIGHTS = Tensors(
    stage="classifier",
    path="classifier/classifier.safetensors",
    shapes={"weight": ("clusters", "inputs"), "bias": ("clusters",)},
)
CLASSIFIER_GRID = Table(
    stage="classifier",
    path="classifier/grid.parquet",
    columns={"input": Column(pa.string())}
    | {name: Column(pa.float64()) for name in ("learning_rate", "accuracy", "loss")},
)
PREDICTIONS = Table(
    stage="predict",
    path="predictions",
    columns=_ID | _NAMES | _label("class_sizes", "confidence") | _RUNNER_UP,
    rows="accepted",
)
#: Written only for a new source, by `icce predict`.
PREDICTION_REJECTS = Table(stage="predict", path="rejects", columns=_ID | _NAMES | _REASON, rows="rejected")
#: Written only for an update, by `icce update`.
NOVELTY = Document(stage="predict", path="predictions/novelty.json", type=Novelty, optional=True)
#: What was found, with the limits that it was found by; the figures of the marker.
#: Places of images in two dimensions; near each other lie those whose features are alike.
MAP = Table(
    stage="inspect",
    path="inspection/map.parquet",
    columns=_ID
    | _NAMES
    | {"label": Column(pa.int32(), within=(0, "clusters"))}
    | {name: Column(pa.float32(), finite=True) for name in ("x", "y")},
)
FINDINGS = Document(stage="inspect", path="inspection/findings.json", summary=True)
#: Places of images in two dimensions, and which of those on the map are the nearest to each.
MAP = Table(
    stage="inspect",
    path="inspection/map.parquet",
    columns=_ID
    | _NAMES
    | {"label": Column(pa.int32(), within=(0, "clusters"))}
    | {name: Column(pa.float32(), finite=True) for name in ("x", "y")}
    | {name: Column(column.type, optional=True) for name, column in _LISTS.items()},
)

#: Images that have copies. A group has the least image_id in it as its number; `similarity` is that to the most alike
#: of the group: 1 for equal ones, 0 from the distance of unrelated neighbours on.
DUPLICATES = Table(
    stage="inspect",
    path="inspection/duplicates",
    columns=_ID
    | _NAMES
    | {"group": Column(pa.int64()), "kind": Column(pa.string()), "similarity": Column(pa.float32(), within=(0, 1))},
)
#: The pairs most alike that are no exact copies, far beyond the limit, to look for a better one.
DUPLICATE_PAIRS = Table(
    stage="inspect",
    path="inspection/pairs.parquet",
    columns=_ID | {"other": Column(pa.int64()), "similarity": Column(pa.float32(), within=(0, 1))},
)
#: Images that are far from all others; `score` is how far, in standard deviations.
OUTLIERS = Table(
    stage="inspect",
    path="inspection/outliers",
    columns=_ID | _NAMES | {"score": Column(pa.float32(), finite=True)},
)
#: The user's labels that the classes contradict, of no stage: `icce evaluate` writes them, in place of earlier ones.
LABEL_ISSUES = Table(
    stage="evaluate",
    path="evaluation/label_issues.parquet",
    columns=_ID
    | _NAMES
    | {name: Column(pa.string()) for name in ("label", "suggested")}
    | {"agreement": Column(pa.float32(), within=(0, 1))},
)
#: Images with quality trouble, each as often as it has problems; `value` is the figure that crossed its limit.
QUALITY = Table(
    stage="inspect",
    path="inspection/quality",
    columns=_ID | _NAMES | {"problem": Column(pa.string()), "value": Column(pa.float32(), finite=True)},
)
#: The tree of the classes.
HIERARCHY = Document(stage="inspect", path="inspection/hierarchy.json", type=Hierarchy, optional=True)

#: Everything that is declared above, in this order.
DECLARED: tuple[Artifact, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Artifact))
#: What there is of every feature space. Losses and labels of heads are of all spaces together once their stage is
#: complete, one space's heads after the other's; until then there are those of each space.
_OF_SPACES = (NEIGHBORS.path, THRESHOLD_EVIDENCE.path, PROJECTION.path, HEAD_WEIGHTS.path)

# -- files that no marker lists ------------------------------------------------------------------------------------

MARKER = "_manifest.json"
RUN_FILE = "run.yaml"
PREDICTION_FILE = "prediction.yaml"
LOCK_FILE = "lock.json"
METRICS_FILE = "metrics.json"
#: For those who follow the run while it works; no part of its results.
METRIC_LINES, TENSORBOARD = "metrics.jsonl", "tensorboard"
REPORT = "report/index.html"
#: Some images of each true class in each class (image_id, label, true), which `icce evaluate` keeps for the report.
TRUE_EXAMPLES = "evaluation/examples.parquet"
#: Names of classes that `icce name` has guessed, and what its column `source` says of them.
CLASS_NAMES, GUESS = "names.csv", "guess"
#: True classes of the images of the map by the last evaluation: image_id int64, label string.
MAP_TRUTH = "evaluation/map_labels.parquet"
#: Sweeps of a run, a folder each, of no stage; what one was asked, the table of its trials, their plot.
SWEEPS, SWEEP_FILE, SWEEP_TABLE, SWEEP_PLOT = "sweeps", "sweep.yaml", "results.parquet", "plot.html"
#: Updates of a run, a folder each: a prediction of images that were not there before, with their features.
UPDATES = "updates"
#: Refined versions of a run, a folder each: what was decided, what follows from it, and the labels made anew.
VERSIONS, DECISIONS_FILE, REFINEMENT_FILE = "versions", "decisions.json", "refinement.json"
#: How many images of each class of its base a version has in each of its own: from, to, images.
CHANGES_FILE = "changes.json"
#: Stages that a version has for itself; the others are those of its run.
REFINED = ("consensus", "classifier", "predict")
#: Labellings of the methods that have ended, until the stage is complete.
CANDIDATES = "consensus/candidates"


class CandidateScore(TypedDict):
    """Written last: the labels of a method are all there."""

    anmi: FiniteFloat


def candidate_labels(method: str) -> Table:
    """Labels of one method, in the shards of the features."""
    return Table(stage="consensus", path=f"{CANDIDATES}/{method}", columns={"label": Column(pa.int32())})


def candidate_score(method: str) -> Document:
    """What says that all of them are there."""
    return Document(stage="consensus", path=f"{CANDIDATES}/{method}.json", type=CandidateScore)


def declared(spaces: Sequence[str]) -> list[Artifact]:
    """Everything that a run of these feature spaces (`views.spaces_of`) may have."""
    return [one.of(space) for one in DECLARED for space in (spaces if one.path in _OF_SPACES else ("",))]


def stages_before(stage: str) -> list[str]:
    """The stages whose results one rests on."""
    return list(STAGES)[: list(STAGES).index(stage)]


def checkpoint_of(stage: str, space: str = "") -> str:
    """Where a stage keeps what it needs to go on after a kill; deleted once its marker stands, never before."""
    return Artifact(stage=stage, path=f"{STAGES[stage].folder}/checkpoint.safetensors").of(space).path


def folders_of(stage: str, *, prediction: bool = False) -> tuple[str, ...]:
    """Folders that a stage writes, that of its marker first; with `prediction` those of `icce predict`."""
    own = [one for one in DECLARED if one.stage == stage and (prediction or one is not PREDICTION_REJECTS)]
    return tuple(dict.fromkeys([STAGES[stage].folder, *(one.path.partition("/")[0] for one in own)]))


def stage_of(path: str) -> str | None:
    """The stage that writes a file, None for one of no stage."""
    folder = path.partition("/")[0]
    return next((stage for stage in STAGES if folder in folders_of(stage, prediction=True)), None)
