"""The stage `heads` on Ray Train: what each worker does, and the trainer that starts them.

A worker trains, keeps checkpoints and labels its share of the images.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import Result, WorkerGroupError, get_context
from ray.train.torch import TorchTrainer, get_device

from icce_ray.core.collectives import current_workers
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.training import HeadTrainer
from icce_ray.settings import HeadsSettings
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import threads_here
from icce_ray.stages.features import FeatureRows, list_column
from icce_ray.stages.remote_progress import Report, flush, loss_figures
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS, HEAD_LOSSES, HEAD_WEIGHTS, checkpoint_of

CHECKPOINT = checkpoint_of("heads")
#: Seconds that an interrupted driver waits until the workers have ended.
ABORT_SECONDS = 10.0


def train(config: dict[str, Any]) -> None:
    """Train all heads from the last checkpoint on, together with the other workers; label all images.

    Everything is in the memory of each worker's device. The first worker alone writes checkpoints, losses and weights.
    """
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
                store.storage.write_tensors(CHECKPOINT, state | {"history": torch.stack(history)})
    _finish(store, rows, trainer, torch.stack(history).numpy())
    if first:
        flush(config["progress"])


def _restored(store: Store, trainer: HeadTrainer) -> list[torch.Tensor]:
    """Bring the trainer to the last checkpoint; returns the losses of the epochs before it."""
    try:
        state = store.storage.read_tensors(CHECKPOINT)
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
        store.storage.write_tensors(HEAD_WEIGHTS.path, teacher.stacked() | inputs)
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


class HeadsTrainer(TorchTrainer):
    """`fit` ends with KeyboardInterrupt when it is interrupted, and leaves the handlers of signals as they were.

    Ray Train's own handler of SIGINT takes the first two as a wish, at the third exits with 0, and stays for good.
    """

    _controller: Any = None

    def fit(self) -> Result:
        """As of Ray Train; what a worker raised is raised as it was."""
        here = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            return super().fit()
        except WorkerGroupError as error:
            raise _of_worker(error) from error
        except KeyboardInterrupt:
            if self._controller is not None:
                with contextlib.suppress(RayActorError, GetTimeoutError):  # the controller ends with its workers
                    ray.get(self._controller.abort.remote(), timeout=ABORT_SECONDS)
            raise
        finally:
            if here and before is not None:
                signal.signal(signal.SIGINT, before)

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller


def _of_worker(error: WorkerGroupError) -> Exception:
    """What the first worker that failed raised; the whole error where that is not known."""
    failures = [failure for _, failure in sorted(error.worker_failures.items())]
    causes = [getattr(failure, "cause", failure) for failure in failures]
    return next((cause for cause in causes if isinstance(cause, Exception)), error)
