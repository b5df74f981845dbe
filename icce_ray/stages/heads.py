"""Stage `heads`: the clustering heads on Ray Train, and the labels of every image under every head (paper 3.1)."""

from __future__ import annotations

import tempfile
from typing import Any

import pyarrow as pa

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, await_capacity
from icce_ray.stages.head_worker import HEADS, LOSSES, train
from icce_ray.stages.reporting import relayed
from icce_ray.stages.rows import FeatureRows
from icce_ray.store import HEAD_LABELS, Store


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Train all heads, from the last checkpoint if there is one, and label all images with each."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # two seconds, which no other stage should pay
    from ray.train.torch import TorchTrainer

    rows, cuda, count = FeatureRows.training(store), resources.device == "cuda", workers_of(settings, resources)
    compiled = settings.resources.compile
    # Ray Train would wait for them for ever.
    await_capacity("GPU" if cuda else "CPU", count, settings.resources.wait_minutes, progress.say)
    with (
        relayed(progress, settings.heads.epochs, unit="epochs") as board,
        # Ray Train's own notes, which nobody needs: our checkpoints are files of the run, and Ray Train does not ask a
        # store a second time.
        tempfile.TemporaryDirectory(prefix="icce-train-", ignore_cleanup_errors=True) as notes,
    ):
        trainer = TorchTrainer(
            train,
            train_loop_config={
                "root": store.root,
                "rows": rows,
                "heads": settings.heads.model_dump(),
                "clusters": settings.clusters,
                "seed": settings.seed,
                "parallelism": settings.resources.parallelism,
                "compiled": cuda if compiled is None else compiled,
                "board": board,
            },
            scaling_config=ScalingConfig(
                num_workers=count, use_gpu=cuda, resources_per_worker={"CPU": 1} | ({"GPU": 1} if cuda else {})
            ),
            run_config=RunConfig(name="heads", storage_path=notes, failure_config=FailureConfig(max_failures=3)),
        )
        trainer.fit()
    names = [HEADS, LOSSES, *(name for name, _ in store.storage.list(HEAD_LABELS))]
    files = [store.storage.describe(name) for name in names]
    summary = summary_of(store.storage.read_table(LOSSES))
    best = summary["best_head"]
    progress.say(f"best of {summary['heads']} heads is {best}: TEMI loss {summary['temi'][best]:.4f}")
    return files, summary


def workers_of(settings: Settings, resources: Resources) -> int:
    """How many processes train: as many as asked for, else one a GPU, if there are heads for all, else one."""
    if settings.resources.head_workers is not None:
        return settings.resources.head_workers
    most = settings.heads.heads if settings.resources.parallelism == "heads" else resources.gpus
    return max(1, min(resources.gpus, most)) if resources.device == "cuda" else 1


def summary_of(losses: pa.Table) -> dict[str, Any]:
    """Losses of the last epoch, and the best head: the lowest TEMI loss there (paper 3.1)."""
    epoch = losses["epoch"].to_numpy()
    last = epoch == epoch.max()
    temi = losses["temi"].to_numpy()[last]
    return {
        "epochs": int(epoch.max()) + 1,
        "heads": int(last.sum()),
        "best_head": int(losses["head"].to_numpy()[last][temi.argmin()]),
        "temi": [round(float(value), 6) for value in temi],
        "cross_entropy": [round(float(value), 6) for value in losses["cross_entropy"].to_numpy()[last]],
    }
