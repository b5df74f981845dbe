"""Aligned heads instead of a graph: soft votes, matched head by head, beside the ensemble of the same trainings.

The paper leaves open whether its graph ensemble can be replaced by votes. Clusters of different heads have different
numbers, so a vote must first say which cluster of a head stands for which label. Here (ours; Dudoit and Fridlyand 2003
vote so in bagged clustering): the head of the lowest loss is the reference, every head is matched to it one to one by
the Hungarian method on their contingency table, the votes are the new reference, and once more. Matching costs
H K^3, whatever N; rows not seen are labelled by the same matching, where the graph ensemble needs a graph of their own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from icce_ray.core.metrics import head_contingency, scores
from jobs.paper.icce import LABEL_ROWS, Trained, agree, self_training, train
from jobs.paper.measure import Figures, Measured
from jobs.paper.tables import ERRORS, cells, difference, points, table

ROUNDS = 2
_COLUMNS = {"seen": "seen", "unseen": "unseen", "self_training": "self-training on it"}
GRAPH, SOFT, HARD = "graph ensemble", "soft votes", "hard votes"


def aligned(measure: Measured, seeds: Sequence[int]) -> str:
    """A Markdown table of ACC, mean +- standard deviation over seeds, and whether votes are as good as the graph."""
    found: dict[str, list[Figures]] = {GRAPH: [], SOFT: [], HARD: []}
    for seed in seeds:
        figures = compared(measure, seed)
        for name, each in found.items():
            each.append(
                {key.removeprefix(f"{name}."): one for key, one in figures.items() if key.startswith(f"{name}.")}
            )
    rows = [
        [name, *cells(each, _COLUMNS), f"{_mean(each, 'used'):.1f}", f"{_mean(each, 'seconds'):.2f}"]
        for name, each in found.items()
    ]
    verdicts = [_verdict(found, name, column) for name in (SOFT, HARD) for column in _COLUMNS]
    return table("Aligned heads", ["", *_COLUMNS.values(), "clusters used", "seconds"], rows, verdicts)


def _mean(figures: list[Figures], name: str) -> float:
    return float(np.mean([one[name] for one in figures]))


def _verdict(found: dict[str, list[Figures]], name: str, column: str) -> str:
    """Whether votes are as good as the graph, by the mean difference seed by seed and its standard error."""
    mean, error = difference(*([one[column] for one in found[row]] for row in (name, GRAPH)))
    equal = abs(mean) <= ERRORS * error
    said = "equal within two standard errors" if equal else "better" if mean > 0 else "worse"
    return f"- {name} against the {GRAPH}, {_COLUMNS[column]}: {points(mean, error, len(found[name]))}: {said}."


def compared(measure: Measured, seed: int) -> Figures:
    """ACC of the graph ensemble and of the votes of one training, and the seconds of each after the heads' labels."""
    base = measure.on.base
    return measure.once(
        "aligned", {"aligned": dataclasses.asdict(base), "rounds": ROUNDS}, seed, lambda: _compared(measure, seed)
    )


def _compared(measure: Measured, seed: int) -> Figures:
    on, base = measure.on, measure.on.base
    trained = train(on.features, measure.lists(base), base.n_clusters(on.n_clusters), base, seed)
    started = time.monotonic()
    graph = trained.agreed.label  # computed here, on first use
    figures = {f"{GRAPH}.seconds": time.monotonic() - started}
    found = {GRAPH: (graph, agree(trained.label(on.unseen), trained.n_clusters, seed).label)}
    for name, soft in ((SOFT, True), (HARD, False)):
        started = time.monotonic()
        label, order = voted(trained, soft=soft)
        figures[f"{name}.seconds"] = time.monotonic() - started
        found[name] = (label, votes(trained, on.unseen, order, soft=soft))
    for name, (seen, unseen) in found.items():
        figures |= {
            f"{name}.seen": scores(seen, on.classes)["acc"],
            f"{name}.unseen": scores(unseen, on.unseen_classes)["acc"],
            f"{name}.self_training": scores(self_training(trained, seen).predict(on.unseen), on.unseen_classes)["acc"],
            f"{name}.used": float(len(np.unique(seen))),
        }
    return figures


def voted(trained: Trained, *, soft: bool, rounds: int = ROUNDS) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Votes of matched heads on the rows fitted, int32[n], and the matching they were cast by, as from `matched`."""
    label = trained.head_labels[:, int(trained.losses.argmin())]
    order = np.empty((0, trained.n_clusters), np.int64)
    for _ in range(rounds):
        order = matched(trained.head_labels, label, trained.n_clusters)
        label = votes(trained, trained.features, order, soft=soft)
    return label, order


def matched(head_labels: NDArray[np.int32], label: NDArray[np.int32], n_clusters: int) -> NDArray[np.int64]:
    """For every head and every label, the cluster that stands for it: int64[H, K], a permutation in each row.

    `head_labels` int[n, H] and the reference `label` int[n] are in [0, n_clusters).
    """
    tables = head_contingency(head_labels, label, [n_clusters] * head_labels.shape[1], n_clusters)
    pairs = [linear_sum_assignment(table.toarray().T, maximize=True)[1] for table in tables]
    return np.stack(pairs)


def votes(trained: Trained, rows: Tensor, order: NDArray[np.int64], *, soft: bool) -> NDArray[np.int32]:
    """The label of the most votes of each row, int32[m]; ties go to the lower one.

    A soft vote is the teacher's probabilities at its temperature, a hard one its largest alone; `order` as `matched`.
    """
    trainer, blocks = trained.trainer, []
    temperature, teacher = trainer.recipe.teacher_temperature, trainer.gather_teacher()
    orders = torch.from_numpy(order).to(rows.device).split([len(one.parameters["prototypes"]) for one in teacher])
    with torch.no_grad():
        for block in rows.split(LABEL_ROWS):
            x = (block.float() - trainer.mean) / trainer.std
            total = torch.zeros(len(block), trained.n_clusters, device=rows.device)
            for chunk, places in zip(teacher, orders, strict=True):
                logits = chunk.logits(x, temperature=temperature)
                cast = logits.softmax(-1) if soft else (logits >= logits.amax(-1, keepdim=True)).float()
                total += cast.gather(2, places[:, None].expand(-1, len(block), -1)).sum(0)
            blocks.append(total.argmax(1).to(torch.int32))
    return torch.cat(blocks).cpu().numpy()
