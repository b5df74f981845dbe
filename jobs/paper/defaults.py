"""Defaults against their neighbours: one setting at a time around the base variant of a set, all else as it is (ours).

The settings are those of `core.recipe` whose values the paper's text lost or TEMI chose for another method:
temperatures, weight of the cross-entropy term, beta, momentum of the teacher, iterations of Sinkhorn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icce_ray.core.recipe import Recipe
from jobs.paper.measure import Measured
from jobs.paper.studies import ALL, FINAL, VALIDATION
from jobs.paper.tables import COLUMNS, Results, Row, Study, cells, difference, measured, points, table
from jobs.paper.variants import Variant

_COLUMNS = (ALL, VALIDATION, FINAL)


@dataclass(frozen=True)
class Sweep:
    """Values of one setting: of a field of the recipe, or of several that move together."""

    fields: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """The fields as text."""
        return " = ".join(self.fields)

    def default(self, recipe: Recipe) -> float:
        """The value of the first field."""
        return getattr(recipe, self.fields[0])

    def around(self, base: Variant) -> list[float]:
        """The values and the base's own, ascending."""
        return sorted({*self.values, self.default(base.recipe)})

    def row(self, base: Variant, value: float) -> Row:
        """The base with this value."""
        return Row(f"{self.name} {value:g}", base.but(**dict.fromkeys(self.fields, value)))


SWEEPS = (
    Sweep(("student_temperature",), (0.05, 0.1, 0.2)),
    Sweep(("teacher_temperature",), (0.05, 0.1, 0.2)),
    Sweep(("student_temperature", "teacher_temperature"), (0.05, 0.1, 0.2)),
    Sweep(("ce_weight",), (0.0, 0.5, 1.0, 2.0)),
    Sweep(("beta",), (0.5, 0.6, 0.7, 0.8, 1.0)),
    Sweep(("teacher_momentum",), (0.9, 0.97, 0.99, 0.996)),
    Sweep(("sinkhorn_iterations",), (1, 3, 10)),
)


def defaults(measure: Measured, seeds: Sequence[int], sweeps: Sequence[Sweep] = SWEEPS) -> str:
    """A Markdown table of all values, the default marked, and a line a setting: which values are better."""
    found = measured(study(measure.on.base, sweeps), measure, seeds)
    return markdown(measure.on.base, len(measure.on.features), found, sweeps)


def study(base: Variant, sweeps: Sequence[Sweep] = SWEEPS) -> Study:
    """Every value of every setting as a row; the base is trained once a seed, whatever it is called."""
    rows = tuple(sweep.row(base, value) for sweep in sweeps for value in sweep.around(base))
    return Study("defaults", "Defaults: one setting at a time", rows, _COLUMNS)


def markdown(base: Variant, n_images: int, results: Results, sweeps: Sequence[Sweep] = SWEEPS) -> str:
    """The table of `results`, whose rows are those of `study`."""
    recipe = base.recipe
    batch = min(recipe.batch_size, n_images)
    steps = recipe.epochs * (n_images // batch)
    rows = []
    for sweep in sweeps:
        for value in sweep.around(base):
            mark = " (default)" if value == sweep.default(base.recipe) else ""
            rows.append([sweep.name, f"{value:g}{mark}", *cells(results[sweep.row(base, value).name], _COLUMNS)])
    title = f"Defaults: one setting at a time ({steps:,} steps of {batch} images)"
    header = ["setting", "value", *(COLUMNS[name] for name in _COLUMNS)]
    return table(title, header, rows, [_better(sweep, base, results) for sweep in sweeps])


def _better(sweep: Sweep, base: Variant, results: Results) -> str:
    """Which values lead the default by more than the standard error of the lead, after self-training and in the heads.

    Of many values some lead by chance: a lead counts that is several errors wide, or there on every set.
    """
    figures = {"self-training": FINAL, "all heads": ALL}
    judged = [f"{text}, {_leads(sweep, base, results, name)}" for text, name in figures.items()]
    return f"- {sweep.name}: {'; '.join(judged)}."


def _leads(sweep: Sweep, base: Variant, results: Results, figure: str) -> str:
    default = sweep.default(base.recipe)
    values = {value: [one[figure] for one in results[sweep.row(base, value).name]] for value in sweep.around(base)}
    own = values.pop(default)
    leads = {value: difference(each, own) for value, each in values.items()}
    ahead = {value: lead for value, lead in leads.items() if lead[0] > lead[1]}
    if ahead:
        shown = ", ".join(f"{value:g} by {points(*lead, len(own))}" for value, lead in ahead.items())
        return f"better than {default:g} is {shown}"
    value, lead = max(leads.items(), key=lambda item: item[1][0])
    return f"nothing is better than {default:g} beyond its error, the closest is {value:g} by {points(*lead, len(own))}"
