"""The sweep of defaults: one setting a row, the base trained once, and which values lead it."""

import dataclasses

from icce_ray.core.recipe import Recipe
from jobs.paper.defaults import SWEEPS, Sweep, defaults, markdown, study
from jobs.paper.feature_sets import synthetic
from jobs.paper.measure import Measured
from jobs.paper.studies import ALL, FINAL, VALIDATION
from jobs.paper.synthetic import FeatureModel
from jobs.paper.variants import Variant

BASE = Variant(k_min=5, recipe=Recipe(heads=2, teacher_momentum=0.95, epochs=3, batch_size=50))
BETA = Sweep(("beta",), (0.5, 0.6, 0.7))


def changed(variant):
    """Fields of the recipe that are not the base's."""
    pairs = zip(vars(BASE.recipe).items(), vars(variant.recipe).items(), strict=True)
    assert dataclasses.replace(variant, recipe=BASE.recipe) == BASE
    return {name for (name, one), (_, other) in pairs if one != other}


def test_a_row_changes_its_setting_and_nothing_else():
    rows = {row.name: row.variant for row in study(BASE).rows}
    assert changed(rows["ce_weight 2"]) == {"ce_weight"}
    assert rows["ce_weight 2"].recipe.ce_weight == 2.0
    both = rows["student_temperature = teacher_temperature 0.05"]
    assert changed(both) == {"student_temperature", "teacher_temperature"}
    assert (both.recipe.student_temperature, both.recipe.teacher_temperature) == (0.05, 0.05)
    for sweep in SWEEPS:
        assert rows[sweep.row(BASE, sweep.default(BASE.recipe)).name] == BASE


def figures(*values):
    """One seed a value, the same under every figure."""
    return [{ALL: value, VALIDATION: value, FINAL: value} for value in values]


def test_a_lead_beyond_its_error_is_said():
    found = {"beta 0.5": figures(0.84, 0.88), "beta 0.6": figures(0.80, 0.84), "beta 0.7": figures(0.80, 0.85)}
    text = markdown(BASE, 120, found, [BETA]).splitlines()
    assert text[0] == "### Defaults: one setting at a time (6 steps of 50 images)"
    assert text[4] == "| beta | 0.5 | 86.00 +- 2.83 | 86.00 +- 2.83 | 86.00 +- 2.83 |"
    assert text[5].startswith("| beta | 0.6 (default) | 82.00")
    assert text[-1] == (
        "- beta: self-training, better than 0.6 is 0.5 by +4.00 +- 0.00 points; all heads, better than 0.6 is 0.5 by "
        "+4.00 +- 0.00 points."
    )


def test_a_lead_below_its_error_is_none():
    found = {"beta 0.5": figures(0.75, 0.80), "beta 0.6": figures(0.80, 0.84), "beta 0.7": figures(0.84, 0.81)}
    for one in found["beta 0.5"]:
        one[ALL] = 0.9
    line = markdown(BASE, 120, found, [BETA]).splitlines()[-1]
    assert line == (
        "- beta: self-training, nothing is better than 0.6 beyond its error, the closest is 0.7 by +0.50 +- 3.50 "
        "points; all heads, better than 0.6 is 0.5 by +8.00 +- 2.00 points."
    )


def test_the_base_is_trained_once_a_seed(tmp_path):
    on = synthetic(100, model=FeatureModel(n_clusters=5, dim=16))
    base = Variant(threshold=0.4, k_min=5, recipe=Recipe(heads=2, hidden=16, bottleneck=8, epochs=2, batch_size=50))
    said = []
    measure = Measured(
        dataclasses.replace(on, base=dataclasses.replace(base, iterations=10)), tmp_path / "k", said.append
    )
    text = defaults(measure, (0, 1), [BETA, Sweep(("ce_weight",), (0.0, 1.0))])
    assert len(said) == 2 * 4 * 2  # of five rows, two are the base
    assert "| ce_weight | 1 (default) |" in text
    assert text.count("\n- ") == 2
