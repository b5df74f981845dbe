"""What each worker of Ray Train does in the stage `heads`: train, keep checkpoints, label its share of the images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from icce_ray.core.collectives import current_workers
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.training import HeadTrainer
from icce_ray.io.weights import load_tensors, save_tensors
from icce_ray.settings import HeadsSettings
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import threads_here
from icce_ray.stages.features import FeatureRows, list_column
from icce_ray.stages.remote_progress import Report, flush, loss_figures
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS, HEAD_LOSSES, HEAD_WEIGHTS, checkpoint_of

CHECKPOINT = checkpoint_of("heads")


def train(config: dict[str, Any]) -> None:
    """Train all heads from the last checkpoint on, together with the other workers; label all images.

    Everything is in the memory of each worker's device. The first worker alone writes checkpoints, losses and weights.
    """
    from ray.train import get_context
    from ray.train.torch import get_device

    torch.set_num_threads(threads_here(get_context().get_local_world_size()))
    store, rows, settings = Store(config["root"]), config["rows"], HeadsSettings(**config["heads"])
    device = get_device()
    features = torch.from_numpy(rows.features()).to(device)
    trainer = HeadTrainer(
        features,
        neighbors.load(store.root, rows).to(device),
        n_clusters=config["clusters"],
        recipe=Recipe(**settings.recipe()),
        seed=config["seed"],
        workers=current_workers(),
        execution=Execution(
            parallelism=config["parallelism"], precision=settings.precision, compiled=config["compiled"]
        ),
    )
    first = trainer.workers.rank == 0
    history = _restored(store, trainer)
    trainer.check_same_epoch()
    epochs, earlier = trainer.recipe.epochs, trainer.epoch
    if first:
        config["progress"].report.remote(Report(earlier, earlier))
    while trainer.epoch < epochs:
        losses = trainer.run_epoch()
        history.append(torch.stack([losses.temi, losses.cross_entropy]).cpu())
        if first:
            facts = loss_figures(*history[-1].numpy())
            facts["learning_rate"] = trainer.learning_rate(trainer.epoch * trainer.steps_per_epoch - 1)
            config["progress"].report.remote(Report(trainer.epoch, earlier, facts))
        if trainer.epoch % settings.checkpoint_epochs == 0 or trainer.epoch == epochs:
            state = trainer.state()  # every worker gives its heads
            if first:
                save_tensors(store.storage, CHECKPOINT, state | {"history": torch.stack(history)})
    _finish(store, rows, trainer, torch.stack(history).numpy())
    if first:
        flush(config["progress"])


def _restored(store: Store, trainer: HeadTrainer) -> list[torch.Tensor]:
    """Bring the trainer to the last checkpoint; returns the losses of the epochs before it."""
    try:
        state = load_tensors(store.storage, CHECKPOINT)
    except FileNotFoundError:
        return []
    history = list(state.pop("history"))
    trainer.restore(state)
    return history


def _finish(store: Store, rows: FeatureRows, trainer: HeadTrainer, history: np.ndarray) -> None:
    """Write losses, weights and labels; the features are still in memory, so labels cost one forward pass."""
    rank, size, teacher = trainer.workers.rank, trainer.workers.size, trainer.gather_teacher()
    if rank == 0:
        HEAD_LOSSES.write(store.storage, _losses(history))
        inputs = {"input.mean": trainer.mean, "input.std": trainer.std}
        save_tensors(store.storage, HEAD_WEIGHTS.path, teacher.stacked() | inputs)
    for index, (start, stop) in list(enumerate(rows.blocks()))[rank::size]:
        labels = trainer.labels(trainer.features[start:stop], teacher).cpu().numpy()
        part = rows.table(start, stop, ["image_id", "key"]).append_column("labels", list_column(labels))
        HEAD_LABELS.write(store.storage, part, index)


def _losses(history: np.ndarray) -> pa.Table:
    """Losses [epochs, 2, heads] as a table, one row an epoch and head."""
    epochs, _, heads = history.shape
    return pa.table(
        {
            "epoch": np.repeat(np.arange(epochs), heads),
            "head": np.tile(np.arange(heads), epochs),
            "temi": history[:, 0].reshape(-1),
            "cross_entropy": history[:, 1].reshape(-1),
        }
    )
