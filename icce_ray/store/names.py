"""Names of the files of a run, stage by stage."""

from __future__ import annotations

#: Stages in the order of the run, and the artifact (directory) that carries each one's marker.
ARTIFACTS = {
    "list": "manifest",
    "embed": "features",
    "sample": "sample",
    "neighbors": "neighbors",
    "heads": "heads",
    "consensus": "consensus",
    "classifier": "classifier",
    "predict": "predictions",
}
#: Directories that a stage writes besides the one with its marker.
HEAD_LABELS = "head_labels"
FURTHER_ARTIFACTS = {"heads": (HEAD_LABELS,)}
MARKER = "_manifest.json"
RUN_FILE = "run.yaml"
PREDICTION_FILE = "prediction.yaml"
METRICS_FILE = "metrics.json"
#: What those are told who follow the run while it works; no part of its results.
METRIC_LINES, TENSORBOARD = "metrics.jsonl", "tensorboard"
#: The page about a run.
REPORT = "report/index.html"
#: Sweeps of a run, a folder each; of no stage, and no part of what the run says.
SWEEPS = "sweeps"


def stage_of(path: str) -> str | None:
    """The stage that writes a file, None for one of no stage. Of predictions `rejects/` too."""
    folder = path.split("/", maxsplit=1)[0]
    owners = {artifact: stage for stage, artifact in ARTIFACTS.items()} | {"rejects": "predict"}
    return (owners | {name: stage for stage, names in FURTHER_ARTIFACTS.items() for name in names}).get(folder)


def checkpoint_of(stage: str) -> str:
    """Where a stage keeps what it needs to go on after a kill; deleted once its marker stands, never before."""
    return f"{ARTIFACTS[stage]}/checkpoint.safetensors"
