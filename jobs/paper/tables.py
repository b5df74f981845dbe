"""Studies as tables: rows are variants, columns are figures over seeds beside the paper's, claims are its effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.paper.measure import Figures, Measured
from jobs.paper.variants import Variant

#: A figure and its column; accuracies are in percent.
COLUMNS = {
    "mean_neighbors": "neighbours",
    "pair_accuracy": "of class %",
    "best_head.unseen.acc": "best head",
    "heads.unseen.acc": "all heads",
    "ensemble.seen.acc": "ensemble, seen",
    "ensemble.unseen.acc": "ensemble, unseen",
    "self_training.unseen.acc": "self-training",
    "self_training.unseen.nmi": "its NMI",
    "self_training.unseen.ari": "its ARI",
    "fitted.seen.acc": "seen",
    "fitted.unseen.acc": "unseen",
}
_COUNTS = ("mean_neighbors",)
#: Standard errors up to which a difference shows nothing.
ERRORS = 2


@dataclass(frozen=True)
class Row:
    """One variant and what the paper has in its place, in percent or neighbours, by figure."""

    name: str
    variant: Variant
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """An effect in the paper: `figure` of row `better` is above that of row `worse`."""

    text: str
    better: tuple[str, str]
    """Row and figure."""
    worse: tuple[str, str]


@dataclass(frozen=True)
class Study:
    """A table of the paper."""

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    claims: tuple[Claim, ...] = ()


Results = dict[str, list[Figures]]
"""Figures of each seed, by row."""


def measured(study: Study, measure: Measured, seeds: Sequence[int]) -> Results:
    """Run what is not known yet: all rows of one seed, then of the next."""
    found: Results = {row.name: [] for row in study.rows}
    for seed in seeds:
        for row in study.rows:
            found[row.name].append(measure.variant(f"{study.name}: {row.name}", row.variant, seed))
    return found


def markdown(study: Study, results: Results) -> str:
    """The study as a Markdown table, mean +- standard deviation over seeds (paper's figure), and its claims."""
    rows = [
        [row.name, *(cell(results[row.name], name, row.paper.get(name)) for name in study.columns)]
        for row in study.rows
    ]
    header = ["", *(COLUMNS[name] for name in study.columns)]
    return table(study.title, header, rows, [judged(claim, results) for claim in study.claims])


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """A Markdown table below its title (none if that is empty), the notes below the table."""
    lines = [f"### {title}", ""] if title else []
    lines += [_line(header), f"|{'---|' * len(header)}", *(_line(row) for row in rows), "", *notes]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def cells(figures: Sequence[Figures], names: Iterable[str]) -> list[str]:
    """`cell` of each figure."""
    return [cell(figures, name) for name in names]


def cell(figures: Sequence[Figures], name: str, paper: float | None = None) -> str:
    """Mean +- sample deviation over seeds, the paper's figure in brackets."""
    values = np.array([one[name] for one in figures])
    if name in _COUNTS:
        text = f"{values.mean():.1f}"
    else:
        text = f"{100 * values.mean():.2f}"
        if len(values) > 1:
            text += f" +- {100 * values.std(ddof=1):.2f}"
    return text if paper is None else f"{text} ({paper:g})"


def judged(claim: Claim, results: Results) -> str:
    """Whether the effect is there: the mean of the differences seed by seed, in points, against their standard error.

    A difference below two standard errors shows nothing; one seed has no error, and only its sign is judged.
    """
    better, worse = ([one[figure] for one in results[row]] for row, figure in (claim.better, claim.worse))
    mean, error = difference(better, worse)
    verdict = "agrees" if mean > 0 else "DOES NOT AGREE"
    if abs(mean) <= ERRORS * error:
        verdict = "no difference beyond two standard errors"
    return f"- {claim.text}: {points(mean, error, len(better))}: {verdict}."


def difference(better: Sequence[float], worse: Sequence[float]) -> tuple[float, float]:
    """Mean of `better - worse` seed by seed, in points, and its standard error, which is 0 for one seed."""
    each = 100 * (np.array(better) - np.array(worse))
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0


def points(mean: float, error: float, n_seeds: int) -> str:
    """A difference as text, with its error where there is one."""
    return f"{mean:+.2f} +- {error:.2f} points" if n_seeds > 1 else f"{mean:+.2f} points"
