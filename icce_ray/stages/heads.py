"""Stage `heads`: the clustering heads on Ray Train, and the labels of every image under every head (paper 3.1)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.alarms import cluster_sizes, head_alarms
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, await_capacity, grouped, room_for, run_bounded
from icce_ray.stages.features import FeatureRows, matrix
from icce_ray.stages.remote_progress import log_alarms, remote_progress
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS, HEAD_LOSSES, HEAD_WEIGHTS


def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Train all heads, from the last checkpoint if there is one, and label all images with each."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # two seconds, which no other stage should pay

    from icce_ray.stages.head_worker import HeadsTrainer, train

    rows, cuda, count = FeatureRows.training(store), resources.device == "cuda", workers_of(settings, resources)
    compiled = settings.resources.compile
    # Ray Train would wait for them for ever.
    await_capacity("GPU" if cuda else "CPU", count, settings.resources.wait_minutes, progress.log)
    with (
        remote_progress(progress, settings.heads.epochs, unit="epochs") as actor,
        # Ray Train's own notes, which nobody needs: our checkpoints are files of the run, and Ray Train does not ask a
        # store a second time.
        tempfile.TemporaryDirectory(prefix="icce-train-", ignore_cleanup_errors=True) as notes,
    ):
        trainer = HeadsTrainer(
            train,
            train_loop_config={
                "root": store.root,
                "rows": rows,
                "heads": settings.heads.model_dump(),
                "clusters": settings.clusters,
                "seed": settings.seed,
                "parallelism": settings.resources.parallelism,
                "compiled": cuda if compiled is None else compiled,
                "progress": actor,
            },
            scaling_config=ScalingConfig(
                num_workers=count, use_gpu=cuda, resources_per_worker={"CPU": 1} | ({"GPU": 1} if cuda else {})
            ),
            run_config=RunConfig(name="heads", storage_path=notes, failure_config=FailureConfig(max_failures=3)),
        )
        trainer.fit()
    labels = [path for path, _ in store.storage.list(HEAD_LABELS.path)]
    files = [store.storage.describe(path) for path in (HEAD_WEIGHTS.path, HEAD_LOSSES.path, *labels)]
    losses = store.storage.read_table(HEAD_LOSSES.path)
    summary = summary_of(losses)
    best = summary["best_head"]
    progress.log(f"best of {summary['heads']} heads is {best}: TEMI loss {summary['temi'][best]:.4f}")
    sizes = _cluster_sizes(store, labels, settings.clusters)
    alarms = head_alarms(losses["temi"].to_numpy().reshape(-1, summary["heads"]), sizes)
    summary["alarms"] = log_alarms(alarms, progress)
    return files, summary


def workers_of(settings: Settings, resources: Resources) -> int:
    """How many processes train: as many as asked for, else one a GPU, if there are heads for all, else one."""
    if settings.resources.head_workers is not None:
        return settings.resources.head_workers
    most = settings.heads.heads if settings.resources.parallelism == "heads" else resources.gpus
    return max(1, min(resources.gpus, most)) if resources.device == "cuda" else 1


def _cluster_sizes(store: Store, paths: Sequence[str], clusters: int) -> np.ndarray:
    """Images of each cluster of each head, int64[H, K]: the labels are counted by tasks."""
    groups = grouped(paths, room_for(0.5)())
    found: list[np.ndarray] = []
    run_bounded(
        lambda index: _count.remote(store.root, groups[index], clusters),
        range(len(groups)),
        limit=room_for(0.5),
        on_result=lambda sizes: found.append(sizes if not found else found.pop() + sizes),
    )
    return found[0]


@ray.remote(num_cpus=0.5)
def _count(root: str, paths: Sequence[str], clusters: int) -> np.ndarray:
    """Images of each cluster of each head in some files of head labels, int64[H, K]."""
    storage = Store(root).storage
    sizes = [cluster_sizes(matrix(storage.read_table(path, ["labels"])["labels"]), clusters) for path in paths]
    return np.sum(sizes, axis=0)


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
