"""Stage `heads`: the clustering heads on Ray Train, and the labels of every image under every head (paper 3.1).

The driver starts the workers (`run`); each trains, keeps checkpoints and labels its share of the images (`train`).
Ray Train is imported where it is used: it takes two seconds, which no other stage should pay.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.alarms import cluster_sizes, head_alarms
from icce_ray.core.collectives import current_workers
from icce_ray.core.compiling import compile_fault
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.training import HeadTrainer
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult, neighbors
from icce_ray.stages.checkpoints import CheckpointWriter
from icce_ray.stages.cluster import Resources, await_capacity, completed_groups, threads_here
from icce_ray.stages.elastic import Grow, Places, Worker, fit, train_elastic
from icce_ray.stages.features import FeatureRows, list_column, matrix
from icce_ray.stages.head_tables import gather, is_trained, losses_table, shares, spans
from icce_ray.stages.remote_progress import Report, flush, log_alarms, loss_figures, remote_progress
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS, HEAD_LOSSES, HEAD_WEIGHTS, checkpoint_of
from icce_ray.store.views import JOINED


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Train all heads, from the last checkpoint if there is one, and label all images with each.

    Of several feature spaces one after the other, each with heads of its own.
    """
    cuda, compiled = resources.device == "cuda", settings.resources.compile
    worker = Worker("GPU" if cuda else "CPU", settings.resources.wait_minutes)
    counts, before, files = shares(store, settings.heads.heads), 0, []
    with remote_progress(progress, settings.heads.epochs * len(counts), unit="epochs") as actor:
        for space, heads in counts.items():
            config = {
                "root": store.root,
                "rows": _rows(settings, store, space),
                "settings": _with_heads(settings, heads),
                "compiled": cuda if compiled is None else compiled,
                "progress": actor,
                "epochs_before": before,
                "worker": worker,
                "most": workers_of(_with_heads(settings, heads), resources),
            }
            if space:
                progress.log(f"{heads} heads of the feature space {space}")
            if not space or not is_trained(store, config["rows"]):
                files += _train(config, progress)
            before += settings.heads.epochs
    if "" not in counts:
        files = gather(store, _rows(settings, store, JOINED), list(counts))
    losses = store.storage.read_table(HEAD_LOSSES.path)
    summary = summary_of(losses)
    best = summary["best_head"]
    progress.log(f"best of {summary['heads']} heads is {best}: TEMI loss {summary['temi'][best]:.4f}")
    labels, sizes = _labels(store, settings.clusters)
    alarms = head_alarms(losses["temi"].to_numpy().reshape(-1, summary["heads"]), sizes)
    summary["alarms"] = log_alarms(alarms, progress)
    return files + labels, summary | ({} if "" in counts else {"head_spaces": spans(counts)})


def _train(config: dict[str, Any], progress: Progress) -> list[FileInfo]:
    """The files of the losses and weights of one space's heads."""
    worker, most = config["worker"], config["most"]
    # Ray Train would wait for them for ever.
    await_capacity(worker.kind, most, worker.wait_minutes, progress.log)
    return train_elastic(
        lambda workers: _fit(config, workers), worker, most, progress=config["progress"], log=progress.log
    )


def _with_heads(settings: Settings, heads: int) -> Settings:
    """The settings of one feature space, which has some of the heads."""
    return settings.model_copy(update={"heads": settings.heads.model_copy(update={"heads": heads})})


def _rows(settings: Settings, store: Store, space: str) -> FeatureRows:
    """What the heads of a feature space see."""
    if not space:
        return FeatureRows.inputs(store, settings.neighbors.components)
    return FeatureRows.of_space(store, space, store.require("neighbors").summary["by_space"])


def _fit(config: dict[str, Any], workers: int) -> Any:
    """One attempt at the training: what the first of so many workers returns."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    once = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)
    worker: Worker = config["worker"]
    # Ray Train's own notes, which nobody needs: our checkpoints are files of the run, and Ray Train does not ask a
    # store a second time.
    with tempfile.TemporaryDirectory(prefix="icce-train-", ignore_cleanup_errors=True) as notes:
        trainer = TorchTrainer(
            train,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=worker.kind == "GPU", resources_per_worker=worker.bundle
            ),
            run_config=RunConfig(name="heads", storage_path=notes, failure_config=once),
        )
        return fit(trainer).return_value


def workers_of(settings: Settings, resources: Resources) -> int:
    """How many processes train: as many as asked for, else one a GPU, if there are heads for all, else one."""
    return workers_at_most(settings, resources.gpus if resources.device == "cuda" else 1)


def workers_at_most(settings: Settings, there: int) -> int:
    """The same of so many GPUs."""
    asked = settings.resources.head_workers or there
    return max(1, min(asked, settings.heads.heads) if settings.resources.parallelism == "heads" else asked)


def _labels(store: Store, clusters: int) -> tuple[list[FileInfo], np.ndarray]:
    """The files of head labels, and the images of each cluster of each head, int64[H, K]: tasks read them."""
    paths = [path for path, _ in store.storage.list(HEAD_LABELS.path) if HEAD_LABELS.holds(path)]
    found = list(completed_groups(lambda group: _count.remote(store.root, group, clusters), paths, cpus=0.5))
    return [info for files, _ in found for info in files], functools.reduce(np.add, [sizes for _, sizes in found])


@ray.remote(num_cpus=0.5)
def _count(root: str, paths: Sequence[str], clusters: int) -> tuple[list[FileInfo], np.ndarray]:
    """The same of some files of head labels."""
    storage = Store(root).storage
    sizes = [cluster_sizes(matrix(storage.read_table(path, ["labels"])["labels"]), clusters) for path in paths]
    return [storage.describe(path) for path in paths], np.sum(sizes, axis=0)


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


def train(config: dict[str, Any]) -> list[FileInfo] | Grow:
    """Train all heads from the last checkpoint on, together with the other workers; label all images.

    Everything is in the memory of each worker's device. The first worker alone writes checkpoints, losses and weights,
    and returns what the two last are. While there are fewer workers than there may be it asks for room for the others;
    where some has come, all end after a checkpoint and return `Grow`. Of several feature spaces these are the heads of
    one; `epochs_before` counts the epochs of those before it.
    """
    store, settings, progress = Store(config["root"]), config["settings"], config["progress"]
    progress.join.remote(ray.get_runtime_context().get_node_id())
    trainer = _trainer(config)
    if config["compiled"] and (fault := compile_fault(trainer.features.device.type)):
        progress.report.remote(Report(0, warning=fault))
    base, checkpoint = config["epochs_before"], checkpoint_of("heads", config["rows"].space)
    history, before = _restored(store, trainer, checkpoint)
    trainer.check_same_epoch()
    most: int = config["most"]
    if config["worker"].kind == "GPU":  # a run that goes on may have fewer of them than it had
        most = max(most, workers_at_most(settings, before))
    workers, epochs, earlier = trainer.workers, trainer.recipe.epochs, trainer.epoch
    first = workers.rank == 0
    if first:
        progress.report.remote(Report(base + earlier, base + earlier))
    missing = Places(config["worker"].bundle, most - workers.size if first else 0)
    with CheckpointWriter(store.storage, checkpoint) as checkpoints, missing:
        while trainer.epoch < epochs:
            losses = trainer.run_epoch()
            history.append(torch.stack([losses.temi, losses.cross_entropy]).cpu())
            if first:
                facts = loss_figures(*history[-1].numpy())
                facts["learning_rate"] = trainer.learning_rate(trainer.epoch * trainer.steps_per_epoch - 1)
                progress.report.remote(Report(base + trainer.epoch, base + earlier, facts))
            if trainer.epoch % settings.heads.checkpoint_epochs == 0 or trainer.epoch == epochs:
                state = trainer.state()  # every worker gives its heads
                if first:
                    more = {"history": torch.stack(history), "workers": torch.tensor(most)}
                    checkpoints.write(state | more)
                if trainer.epoch < epochs and most > workers.size and _any(missing.ready(), trainer):
                    return Grow(most)
        files = _finish(store, config["rows"], trainer, torch.stack(history).numpy())
    if first:
        flush(progress)
    return files


def _trainer(config: dict[str, Any]) -> HeadTrainer:
    """The heads at their beginning, in a worker of Ray Train."""
    from ray.train import get_context
    from ray.train.torch import get_device

    torch.set_num_threads(threads_here(get_context().get_local_world_size()))
    rows, settings = config["rows"], config["settings"]
    device = get_device()
    features = torch.from_numpy(rows.features()).to(device)
    return HeadTrainer(
        features,
        neighbors.load(config["root"], rows).to(device),
        n_clusters=settings.clusters,
        recipe=Recipe(**settings.heads.recipe()),
        seed=settings.seed,
        workers=current_workers(),
        execution=Execution(
            parallelism=settings.resources.parallelism,
            precision=settings.heads.precision,
            compiled=config["compiled"],
        ),
    )


def _any(count: int, trainer: HeadTrainer) -> bool:
    """Whether a count is more than zero on any of the workers."""
    total = torch.tensor([count], device=trainer.features.device)
    trainer.workers.all_reduce(total)
    return bool(total)


def _restored(store: Store, trainer: HeadTrainer, checkpoint: str) -> tuple[list[torch.Tensor], int]:
    """Bring the trainer to the last checkpoint; the losses of the epochs before it, and how many workers there were to
    be then (0 without a checkpoint)."""
    try:
        state = store.storage.read_tensors(checkpoint)
    except FileNotFoundError:
        return [], 0
    history, most = list(state.pop("history")), state.pop("workers", torch.tensor(0))
    trainer.restore(state)
    return history, int(most)


def _finish(store: Store, rows: FeatureRows, trainer: HeadTrainer, history: np.ndarray) -> list[FileInfo]:
    """Write losses, weights and labels; the features are still in memory, so labels cost one forward pass."""
    rank, size, teacher = trainer.workers.rank, trainer.workers.size, trainer.gather_teacher()
    files = []
    if rank == 0:
        inputs = {"input.mean": trainer.mean, "input.std": trainer.std}
        weights = store.storage.write_tensors(HEAD_WEIGHTS.of(rows.space).path, teacher.stacked() | inputs)
        files = [weights, HEAD_LOSSES.of(rows.space).write(store.storage, losses_table(history))]
    for index, (start, stop) in list(enumerate(rows.blocks()))[rank::size]:
        labels = trainer.labels(trainer.features[start:stop], teacher).cpu().numpy()
        part = rows.table(start, stop, ["image_id", "key"]).append_column("labels", list_column(labels))
        HEAD_LABELS.of(rows.space).write(store.storage, part, index)
    return files
