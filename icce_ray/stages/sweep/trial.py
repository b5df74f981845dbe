"""One trial: heads trained as a run with these settings would, their consensus, and what is worth knowing of both."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from icce_ray.adapters.partition import mtkahypar_hypergraph
from icce_ray.adapters.partition_apart import metis_graph_apart
from icce_ray.core.consensus import Consensus, ConsensusSizeError, consensus
from icce_ray.core.metrics import scores
from icce_ray.core.neighbors import Neighbors, narrow
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.selection import modularity, nearest, neighbor_accuracy
from icce_ray.core.training import HeadTrainer
from icce_ray.io.weights import load_tensors, save_tensors
from icce_ray.settings import Settings
from icce_ray.settings.sweep import Trial
from icce_ray.stages.classifier import fit_grid
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import limits_of
from icce_ray.store import Store

#: Rows labelled at once.
LABEL_ROWS = 8192
#: The consensus of a rung: the method that costs the least.
RUNG_METHODS = ("mcla",)

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a sweep work on. Arrays are references into Ray's object store: one copy a node."""

    rows: FeatureRows
    features: Any
    lists: Any
    truth: Any | None
    """Class of every row, -1 where it is not known; None: the objective is label-free."""
    nearest: int
    """Neighbours an image of the objective's graph."""
    device: str
    threads: int
    classifier: bool


class Diverged(ValueError):
    """Losses that are no numbers: settings that lead nowhere, not a fault."""


class TrialRun:
    """A trial at work in its process: goes on from its checkpoint, reports at rungs, ends with figures."""

    def __init__(self, trial: Trial, shared: Shared, rungs: list[int], checkpoint: str, report: Report) -> None:
        torch.set_num_threads(shared.threads)
        self.trial, self.shared, self.rungs, self.report = trial, shared, rungs, report
        self.settings: Settings = trial.settings
        self.storage, self.checkpoint = Store(shared.rows.root).storage, checkpoint
        self.features = _tensor(ray.get(shared.features)).to(shared.device)
        self.truth: np.ndarray | None = None if shared.truth is None else ray.get(shared.truth)
        mined = Neighbors(*(_tensor(array) for array in ray.get(shared.lists))).to(shared.device)
        self.graph = nearest(mined, shared.nearest)
        lists = narrow(mined, **limits_of(self.settings, len(self.features)))
        self.lists = Neighbors(lists.offsets, lists.ids, lists.similarities[:0])
        self.history: list[Tensor] = []
        self.reported: list[tuple[int, float]] = []

    def run(self) -> dict[str, Any]:
        """Train, with reports at the rungs; the figures of the end. Raises Diverged, ConsensusSizeError."""
        trainer = self._trainer()
        epochs = trainer.recipe.epochs
        for epoch, score in self.reported:  # of the process that was killed: whoever compares trials forgot them
            self._say(epoch, score)
        while trainer.epoch < epochs:
            losses = trainer.run_epoch()
            self.history.append(torch.stack([losses.temi, losses.cross_entropy]).cpu())
            if not self.history[-1].isfinite().all():
                raise Diverged(f"the losses are no numbers any more at epoch {trainer.epoch}")
            if trainer.epoch in self.rungs:
                score = self._score(self._consensus(self._labels(trainer), RUNG_METHODS).label)
                self.reported.append((trainer.epoch, score))
                self._say(trainer.epoch, score)
            if trainer.epoch % self.settings.heads.checkpoint_epochs == 0:
                self._save(trainer)
        return self._figures(self._labels(trainer))

    # -- training ------------------------------------------------------------------------------------------------

    def _trainer(self) -> HeadTrainer:
        """From the checkpoint of an earlier process, if there is one."""
        trainer = HeadTrainer(
            self.features,
            self.lists,
            n_clusters=self.settings.clusters,
            recipe=Recipe(**self.settings.heads.recipe()),
            seed=self.settings.seed,
            execution=Execution(precision=self.settings.heads.precision),
        )
        try:
            state = load_tensors(self.storage, self.checkpoint)
        except FileNotFoundError:
            return trainer
        self.history = list(state.pop("history"))
        self.reported = [(int(epoch), float(score)) for epoch, score in state.pop("rungs").tolist()]
        trainer.restore(state)
        return trainer

    def _save(self, trainer: HeadTrainer) -> None:
        rungs = torch.tensor(self.reported, dtype=torch.float64).reshape(-1, 2)
        state = trainer.state() | {"history": torch.stack(self.history), "rungs": rungs}
        save_tensors(self.storage, self.checkpoint, state)

    def _say(self, epoch: int, score: float) -> None:
        loss = float(self.history[epoch - 1][0].mean())
        self.report({"epoch": epoch, "score": score, "mean_loss": round(loss, 6)})

    # -- what came out ---------------------------------------------------------------------------------------------

    def _labels(self, trainer: HeadTrainer) -> np.ndarray:
        """int32[N, H]."""
        blocks = [trainer.labels(rows).cpu().numpy() for rows in self.features.split(LABEL_ROWS)]
        return np.ascontiguousarray(np.concatenate(blocks))

    def _consensus(self, labels: np.ndarray, methods: tuple[str, ...]) -> Consensus:
        tools = {"graph_partitioner": metis_graph_apart, "hypergraph_partitioner": mtkahypar_hypergraph}
        return consensus(labels, self.settings.clusters, methods=methods, seed=self.settings.seed, **tools)

    def _score(self, label: np.ndarray) -> float:
        """The objective of one labelling: ACC where the truth is known, else modularity."""
        if self.truth is not None:
            return _against(self.truth, label)["acc"]
        return modularity(torch.from_numpy(label).to(self.graph.device), self.graph, self.settings.clusters)

    def _figures(self, labels: np.ndarray) -> dict[str, Any]:
        temi = self.history[-1][0]
        best = int(temi.argmin())
        found = self._consensus(labels, self.settings.consensus.methods)
        placed = torch.from_numpy(found.label).to(self.graph.device)
        figures: dict[str, Any] = {
            "mean_neighbors": float(self.lists.counts.double().mean()),
            "best_head": best,
            "temi": [round(float(value), 6) for value in temi],
            "head_labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
            "method": found.method,
            "anmi": found.anmi,
            "mean_agreement": float(found.agreement.mean()),
            "used_clusters": len(np.unique(found.label)),
            "modularity": modularity(placed, self.graph, self.settings.clusters),
        }
        if self.truth is not None:
            figures |= self._judged(self.truth, labels, best, found)
        if self.shared.classifier:
            figures |= self._classified(found.label)
        return figures | {"objective": self._score(found.label)}

    def _judged(self, truth: np.ndarray, labels: np.ndarray, best: int, found: Consensus) -> dict[str, Any]:
        """Against the truth: the columns of the paper's Table 11, and the consensus."""
        each = [_against(truth, column)["acc"] for column in labels.T]
        return {
            "neighbor_accuracy": neighbor_accuracy(self.lists, _tensor(truth).to(self.graph.device)),
            "best_head_acc": each[best],
            "mean_head_acc": float(np.mean(each)),
            "std_head_acc": float(np.std(each)),
        } | _against(truth, found.label)

    def _classified(self, label: np.ndarray) -> dict[str, Any]:
        """The classifier on this consensus: how well it predicts held-out labels of it, and the truth."""
        from icce_ray.stages.labelling import classifier_inputs, wide

        store = Store(self.shared.rows.root)
        embedded = store.require("embed").summary
        blocks = self.shared.rows.features(column="cls_blocks") if embedded["block_dim"] else None
        features = self.features
        if blocks is not None:
            features = torch.from_numpy(wide(self.shared.rows.features(), blocks)).to(self.features.device)
        inputs = classifier_inputs(embedded["layout"], embedded["dim"], embedded["block_dim"])
        fitted = fit_grid(features, torch.from_numpy(label).long().to(features.device), inputs, self.settings)
        figures: dict[str, Any] = {"heldout_accuracy": fitted.winner.accuracy}
        if self.truth is not None:
            columns = torch.cat([torch.arange(*part) for part in inputs[fitted.winner.input]]).to(features.device)
            said = [fitted.classifier.probabilities(rows[:, columns]).argmax(1) for rows in features.split(LABEL_ROWS)]
            figures["classifier_acc"] = _against(self.truth, torch.cat(said).cpu().numpy())["acc"]
        return figures


def ended(work: Callable[[], dict[str, Any]]) -> tuple[str, dict[str, Any], float]:
    """(state, figures, seconds) of a trial; settings that lead nowhere are a result, with the reason."""
    started = time.monotonic()
    try:
        state, figures = "complete", work()
    except (Diverged, ConsensusSizeError) as reason:
        state, figures = "failed", {"reason": str(reason)}
    return state, figures, round(time.monotonic() - started, 3)


def _against(truth: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """ACC, NMI and ARI on the rows whose class is known."""
    known = truth >= 0
    return scores(label[known], truth[known])


def _tensor(array: np.ndarray) -> Tensor:
    """Without a copy: trials only read what they share, and Ray's arrays are read-only, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
