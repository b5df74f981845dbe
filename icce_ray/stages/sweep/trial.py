"""One trial: heads trained as a run with these settings would train them, their consensus, and the figures of both."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from icce_ray.core.consensus import Consensus, consensus
from icce_ray.core.metrics import scores
from icce_ray.core.neighbors import Neighbors, apply_limits
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.selection import NEAREST, modularity, nearest, neighbor_accuracy
from icce_ray.core.training import HeadTrainer
from icce_ray.search.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.settings.sweep import Trial
from icce_ray.stages.classifier import fit_grid, grid_inputs
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import limits_of
from icce_ray.stages.sweep.records import Rung
from icce_ray.store import Store

#: Rows labelled at once.
LABEL_ROWS = 8192
#: The consensus at a rung: the method that costs the least.
RUNG_METHODS = ("mcla",)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a sweep work on."""

    rows: FeatureRows
    arrays: ray.ObjectRef[dict[str, np.ndarray]]
    """`features`, `offsets`, `ids` and `similarities` of the neighbours, and with labels `truth`, the class of every
    row, -1 where it is not known; one copy on each node."""
    device: str
    threads: int
    classifier: bool


class Diverged(ValueError):
    """Losses that are not finite: settings that allow no result, not a fault."""


class TrialRun:
    """A trial in its process: continues from its checkpoint and reports at rungs."""

    def __init__(
        self, trial: Trial, shared: Shared, rungs: list[int], checkpoint: str, report: Callable[[dict[str, Any]], None]
    ) -> None:
        torch.set_num_threads(shared.threads)
        self.settings, self.shared, self.epochs, self.report = trial.settings, shared, rungs, report
        self.storage, self.checkpoint = Store(shared.rows.root).storage, checkpoint
        arrays = {name: _tensor(array) for name, array in ray.get(shared.arrays).items()}
        self.features, self.truth = arrays["features"].to(shared.device), arrays.get("truth")
        mined = Neighbors(*(arrays[name] for name in ("offsets", "ids", "similarities"))).to(shared.device)
        self.graph = nearest(mined, graph_width(len(self.features)))
        lists = apply_limits(mined, limits_of(self.settings, len(self.features)))
        self.lists = Neighbors(lists.offsets, lists.ids, lists.similarities[:0])
        self.history: list[Tensor] = []
        self.rungs: list[Rung] = []

    def run(self) -> dict[str, Any]:
        """Train, with reports at the rungs; the figures of the end. Raises Diverged, ConsensusSizeError."""
        trainer = self._trainer()
        while trainer.epoch < trainer.recipe.epochs:
            losses = trainer.run_epoch()
            self.history.append(torch.stack([losses.temi, losses.cross_entropy]).cpu())
            if not self.history[-1].isfinite().all():
                raise Diverged(f"the losses are not finite from epoch {trainer.epoch} on")
            if trainer.epoch in self.epochs:
                self._report(trainer.epoch, self._score(self._consensus(self._labels(trainer), RUNG_METHODS).label))
            if trainer.epoch % self.settings.heads.checkpoint_epochs == 0:
                self._save(trainer)
        return self._figures(self._labels(trainer))

    def _trainer(self) -> HeadTrainer:
        """From the checkpoint of an earlier process, if there is one; its reports are repeated for the scheduler."""
        trainer = HeadTrainer(
            self.features,
            self.lists,
            n_clusters=self.settings.clusters,
            recipe=Recipe(**self.settings.heads.recipe()),
            seed=self.settings.seed,
            execution=Execution(precision=self.settings.heads.precision, compiled=self._compiled()),
        )
        try:
            state = self.storage.read_tensors(self.checkpoint)
        except FileNotFoundError:
            return trainer
        self.history = list(state.pop("history"))
        for epoch, score in state.pop("rungs").tolist():
            self._report(int(epoch), score)
        trainer.restore(state)
        return trainer

    def _compiled(self) -> bool:
        """As in a run, whose trainings a trial's are."""
        asked = self.settings.resources.compile
        return self.shared.device == "cuda" if asked is None else asked

    def _save(self, trainer: HeadTrainer) -> None:
        rungs = torch.tensor([[rung["epoch"], rung["score"]] for rung in self.rungs], dtype=torch.float64)
        state = trainer.state() | {"history": torch.stack(self.history), "rungs": rungs.reshape(-1, 2)}
        self.storage.write_tensors(self.checkpoint, state)

    def _report(self, epoch: int, score: float) -> None:
        loss = round(float(self.history[epoch - 1][0].mean()), 6)
        self.rungs.append({"epoch": epoch, "score": score, "mean_loss": loss})
        self.report({**self.rungs[-1], "rungs": list(self.rungs)})

    def _labels(self, trainer: HeadTrainer) -> np.ndarray:
        """int32[N, H]."""
        blocks = [trainer.labels(rows).cpu().numpy() for rows in self.features.split(LABEL_ROWS)]
        return np.ascontiguousarray(np.concatenate(blocks))

    def _consensus(self, labels: np.ndarray, methods: tuple[str, ...]) -> Consensus:
        clusters, seed = self.settings.clusters, self.settings.seed
        return consensus(labels, clusters, PARTITIONERS_BESIDE_RAY, methods=methods, seed=seed)

    def _score(self, label: np.ndarray) -> float:
        """The objective of one labelling: ACC where the truth is known, else modularity."""
        return self._scores(label)["acc"] if self.truth is not None else self._modularity(label)

    def _modularity(self, label: np.ndarray) -> float:
        return modularity(torch.from_numpy(label).to(self.graph.device), self.graph, self.settings.clusters)

    def _scores(self, label: np.ndarray) -> dict[str, float]:
        """ACC, NMI and ARI on the rows whose class is known."""
        truth = np.asarray(self.truth)
        return scores(label[truth >= 0], truth[truth >= 0])

    def _figures(self, labels: np.ndarray) -> dict[str, Any]:
        temi = self.history[-1][0]
        best = int(temi.argmin())
        result = self._consensus(labels, self.settings.consensus.methods)
        figures: dict[str, Any] = {
            "mean_neighbors": float(self.lists.counts.double().mean()),
            "best_head": best,
            "temi": [round(float(value), 6) for value in temi],
            "head_labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
            "method": result.method,
            "anmi": result.anmi,
            "mean_agreement": float(result.agreement.mean()),
            "used_clusters": len(np.unique(result.label)),
            "modularity": self._modularity(result.label),
        }
        if self.truth is not None:  # the columns of the paper's Table 11, and the consensus
            accuracies = [self._scores(column)["acc"] for column in labels.T]
            figures |= {
                "neighbor_accuracy": neighbor_accuracy(self.lists, self.truth.to(self.graph.device)),
                "best_head_acc": accuracies[best],
                "mean_head_acc": float(np.mean(accuracies)),
                "std_head_acc": float(np.std(accuracies)),
                **self._scores(result.label),
            }
        if self.shared.classifier:
            figures |= self._classifier(result)
        return figures | {"objective": self._score(result.label)}

    def _classifier(self, result: Consensus) -> dict[str, Any]:
        """How well a classifier trained on this consensus predicts held-out labels of it, and the truth."""
        rows = replace(self.shared.rows, views=())  # the classifier sees the features as they are
        columns, inputs = grid_inputs(rows, rows.features())
        features = torch.from_numpy(columns).to(self.features.device)
        fitted = fit_grid(features, result.label, result.agreement, inputs, self.settings)
        figures: dict[str, Any] = {"heldout_accuracy": fitted.winner.accuracy}
        if self.truth is not None:
            read = torch.cat([torch.arange(*part) for part in inputs[fitted.winner.input]]).to(features.device)
            blocks = [fitted.classifier.probabilities(rows[:, read]).argmax(1) for rows in features.split(LABEL_ROWS)]
            figures["classifier_acc"] = self._scores(torch.cat(blocks).cpu().numpy())["acc"]
        return figures


def graph_width(n_images: int) -> int:
    """Neighbours of each image in the objective's graph: all others where images are few."""
    return min(NEAREST, n_images - 1)


def _tensor(array: np.ndarray) -> Tensor:
    """Without a copy: trials only read what they share, and Ray's arrays are read-only, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
