"""What one training gives, stage by stage, as plain figures: the only place of a study that reads the classes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icce_ray.core.metrics import scores
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.selection import neighbor_accuracy, pair_accuracy
from jobs.paper.feature_sets import FeatureSet
from jobs.paper.icce import Fit, Fitted, Trained, ensemble, self_training, stage_one, train
from jobs.paper.variants import Variant, lists_of, mined

Figures = dict[str, float]
Say = Callable[[str], None]


class Measured:
    """Figures of variants and rivals on one feature set, each measured once and kept in a file of JSON lines.

    A study that was interrupted goes on where it was; another set, variant or seed is another line. Delete the file
    after a change of the method.
    """

    def __init__(self, on: FeatureSet, kept: Path, say: Say = lambda _: None) -> None:
        self.on, self.kept, self.say = on, kept, say
        lines = kept.read_text().splitlines() if kept.exists() else []
        self.known: dict[str, Figures] = {line["key"]: line["figures"] for line in map(json.loads, lines)}

    @cached_property
    def lowest(self) -> Neighbors:
        """Neighbours for all thresholds."""
        return mined(self.on.features, self.on.n_clusters, self.on.base)

    def variant(self, name: str, variant: Variant, seed: int) -> Figures:
        """Figures of ICCE as `variant`: of the neighbours, the heads, the ensemble and self-training."""
        return self.once(name, {"variant": dataclasses.asdict(variant)}, seed, lambda: self._trained(variant, seed))

    def rival(self, name: str, fit: Fit, seed: int, **settings: Any) -> Figures:
        """ACC, NMI and ARI of a rival on seen and unseen rows; `settings` tell one rival of a name from another."""
        values = {"rival": name, **settings}
        return self.once(
            name, values, seed, lambda: self._judged("fitted", fit(self.on.features, self.on.n_clusters, seed))
        )

    def once(self, name: str, values: dict[str, Any], seed: int, work: Callable[[], Figures]) -> Figures:
        """The figures that `work` gives, unless they are known: `values` and the seed tell what they are of."""
        identity = json.dumps([self.on.name, values, seed], sort_keys=True, default=str)
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        if key not in self.known:
            started = time.monotonic()
            self.say(f"{name}, seed {seed} ...")
            figures = work() | {"seconds": round(time.monotonic() - started, 1)}
            self.say(f"{name}, seed {seed}: {figures['seconds']:.0f} s")
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            line = {"key": key, "set": self.on.name, "name": name, "seed": seed, "settings": values}
            with self.kept.open("a") as file:
                file.write(json.dumps(line | {"figures": figures}, default=str) + "\n")
            self.known[key] = figures
        return self.known[key]

    def lists(self, variant: Variant) -> Neighbors:
        """The neighbours a variant trains on."""
        return lists_of(variant, self.lowest, torch.from_numpy(self.on.classes))

    def _trained(self, variant: Variant, seed: int) -> Figures:
        classes, lists = torch.from_numpy(self.on.classes), self.lists(variant)
        trained = train(self.on.features, lists, variant.n_clusters(self.on.n_clusters), variant, seed)
        figures = {
            "mean_neighbors": float(lists.counts.double().mean()),
            "neighbor_accuracy": neighbor_accuracy(lists, classes),
            "pair_accuracy": pair_accuracy(lists, classes),
            "anmi": trained.agreed.anmi,
            "agreement": float(trained.agreed.agreement.mean()),
            "used_clusters": float(len(np.unique(trained.agreed.label))),
        }
        figures |= self._heads(trained)
        for stage, fit in (("best_head", stage_one), ("ensemble", ensemble), ("self_training", self_training)):
            figures |= self._judged(stage, fit(trained))
        return figures

    def _heads(self, trained: Trained) -> Figures:
        """Mean and deviation of all heads on unseen rows ("Overall" in the paper's Tables 11 and 12)."""
        each = [scores(labels, self.on.unseen_classes)["acc"] for labels in trained.label(self.on.unseen).T]
        return {"heads.unseen.acc": float(np.mean(each)), "heads.unseen.acc_std": float(np.std(each))}

    def _judged(self, stage: str, fitted: Fitted) -> Figures:
        """ACC, NMI and ARI on the rows fitted and on those not seen, by the name of the stage."""
        found = {
            "seen": scores(fitted.labels, self.on.classes),
            "unseen": scores(fitted.predict(self.on.unseen), self.on.unseen_classes),
        }
        return {f"{stage}.{rows}.{name}": value for rows, each in found.items() for name, value in each.items()}
