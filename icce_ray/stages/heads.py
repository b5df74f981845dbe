"""Stage `heads`: the clustering heads on Ray Train, and the labels of every image under every head (paper 3.1)."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.adapters.weights import load_tensors, save_tensors
from icce_ray.core.recipe import Recipe
from icce_ray.core.training import HeadTrainer
from icce_ray.settings import HeadsSettings, Settings
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import Resources
from icce_ray.stages.reporting import Report, relayed
from icce_ray.stages.rows import FeatureRows, list_column
from icce_ray.store import HEAD_LABELS, Store, checkpoint_of

CHECKPOINT = checkpoint_of("heads")
HEADS = "heads/heads.safetensors"
LOSSES = "heads/losses.parquet"


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Train all heads, from the last checkpoint if there is one, and label all images with each."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # two seconds, which no other stage should pay
    from ray.train.torch import TorchTrainer

    rows = FeatureRows.training(store)
    with (
        relayed(progress, settings.heads.epochs, unit="epochs") as board,
        # Ray Train's own notes, which nobody needs: our checkpoints are files of the run, and Ray Train does not ask a
        # store a second time.
        tempfile.TemporaryDirectory(prefix="icce-train-", ignore_cleanup_errors=True) as notes,
    ):
        trainer = TorchTrainer(
            _train,
            train_loop_config={
                "root": store.root,
                "rows": rows,
                "heads": settings.heads.model_dump(),
                "clusters": settings.clusters,
                "seed": settings.seed,
                "threads": resources.cores,
                "board": board,
            },
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=resources.device == "cuda",
                resources_per_worker={"CPU": 1} | ({"GPU": 1} if resources.device == "cuda" else {}),
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


def _train(config: dict[str, Any]) -> None:
    """Worker of Ray Train: everything in the device's memory, a checkpoint every few epochs."""
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    store, rows, settings = Store(config["root"]), config["rows"], HeadsSettings(**config["heads"])
    device = get_device()
    features = torch.from_numpy(rows.features()).to(device)
    trainer = HeadTrainer(
        features,
        neighbors.load(store.root, rows).to(device),
        n_clusters=config["clusters"],
        recipe=Recipe(**settings.recipe()),
        seed=config["seed"],
    )
    history = _restored(store, trainer)
    epochs, earlier = trainer.recipe.epochs, trainer.epoch
    config["board"].post.remote(Report(earlier, earlier))
    while trainer.epoch < epochs:
        losses = trainer.run_epoch()
        history.append(torch.stack([losses.temi, losses.cross_entropy]).cpu())
        facts = {"mean_loss": float(history[-1][0].mean())}
        config["board"].post.remote(Report(trainer.epoch, earlier, facts))
        if trainer.epoch % settings.checkpoint_epochs == 0 and trainer.epoch < epochs:
            save_tensors(store.storage, CHECKPOINT, trainer.state() | {"history": torch.stack(history)})
    save_tensors(store.storage, CHECKPOINT, trainer.state() | {"history": torch.stack(history)})
    _finish(store, rows, trainer, torch.stack(history).numpy())


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
    epochs, _, heads = history.shape
    table = pa.table(
        {
            "epoch": np.repeat(np.arange(epochs), heads),
            "head": np.tile(np.arange(heads), epochs),
            "temi": history[:, 0].reshape(-1),
            "cross_entropy": history[:, 1].reshape(-1),
        }
    )
    store.storage.write_table(LOSSES, table)
    inputs = {"input.mean": trainer.mean, "input.std": trainer.std}
    save_tensors(store.storage, HEADS, trainer.teacher.stacked() | inputs)
    for index, (start, stop) in enumerate(rows.blocks()):
        labels = trainer.labels(trainer.features[start:stop]).cpu().numpy()
        part = rows.table(start, stop, ["image_id", "key"]).append_column("labels", list_column(labels))
        store.storage.write_table(Store.part(HEAD_LABELS, index), part)
