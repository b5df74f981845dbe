"""The study of cleaner neighbours: what each row trains on, what is kept of it, and the share of the gap it closes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from icce_ray.core.cleaning import mutual, shared
from icce_ray.core.neighbors import narrow
from icce_ray.core.recipe import Recipe
from icce_ray.core.selection import pair_accuracy
from icce_ray.core.synthetic import FeatureModel
from icce_ray.studies.cleaner import LOWER, PERFECT, UPPER, cleaner, closed, variants
from icce_ray.studies.feature_sets import synthetic
from icce_ray.studies.measure import Measured
from icce_ray.studies.paper import BEST, FINAL
from icce_ray.studies.variants import Variant, lists_of

RECIPE = Recipe(
    heads=3, hidden=32, bottleneck=16, epochs=6, warmup_epochs=1, batch_size=64, learning_rate=3e-3,
    teacher_momentum=0.95,
)  # fmt: skip
BASE = Variant(threshold=0.4, k_min=5, recipe=RECIPE, iterations=50)


@pytest.fixture(scope="module")
def on():
    found = synthetic(300, model=FeatureModel(n_clusters=5, dim=32, leaning=0.0, atypical=0.1))
    return dataclasses.replace(found, base=BASE)


def same(first, second):
    return torch.equal(first.offsets, second.offsets) and torch.equal(first.ids, second.ids)


def test_a_variant_trains_on_filtered_lists(on, tmp_path):
    measure = Measured(on, tmp_path / "kept")
    classes = torch.from_numpy(on.classes)
    own, loose = (narrow(measure.lowest, threshold=each, k_min=5, k_max=60) for each in (0.4, 0.25))
    assert same(measure.lists(BASE, 0), own)
    assert same(measure.lists(BASE.but(cleaning="mutual"), 0), mutual(own, 5))
    assert same(measure.lists(BASE.but(cleaning="shared", level=0.7, loosened=0.15), 0), shared(loose, 0.7, 5))
    second = measure.lists(BASE.but(cleaning="agreement", level=1.0), 0)
    assert len(second.ids) < len(own.ids)
    assert pair_accuracy(second, classes) > pair_accuracy(own, classes)
    assert not same(second, measure.lists(BASE.but(cleaning="agreement", level=1.0), 1))


def test_a_threshold_is_not_lowered_below_what_was_mined(on, tmp_path):
    lowest, classes = Measured(on, tmp_path / "kept").lowest, torch.from_numpy(on.classes)
    cleaned = BASE.but(cleaning="shared", level=0.0)
    assert same(
        lists_of(cleaned.but(loosened=2.0), lowest, classes), lists_of(cleaned.but(loosened=0.3), lowest, classes)
    )
    low = cleaned.but(threshold=0.05)
    assert same(lists_of(low.but(loosened=1.0), lowest, classes), lists_of(low, lowest, classes))


def test_no_label_reaches_a_filter(on, tmp_path):
    noise = dataclasses.replace(on, classes=np.random.default_rng(0).permutation(on.classes))
    rows = {name: each for name, each in variants(BASE).items() if name not in (UPPER, PERFECT)}
    found = [Measured(each, tmp_path / "kept") for each in (on, noise)]
    for each in rows.values():
        assert same(found[0].lists(each, 0), found[1].lists(each, 0))


def test_figures_of_before_the_filters_are_still_known():
    assert set(BASE.values) == {"neighbors", "threshold", "k_min", "clusters", "recipe", "iterations", "precision"}
    cleaned = BASE.but(cleaning="agreement", level=0.6, loosened=0.1)
    assert cleaned.values == BASE.values | {"cleaning": "agreement", "level": 0.6, "loosened": 0.1}
    assert cleaned.uncleaned == BASE


def test_the_table(on, tmp_path):
    text = cleaner(Measured(on, tmp_path / "kept"), [0])
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == list(variants(BASE))
    assert len([line for line in text.splitlines() if line.startswith("- ")]) == len(rows) - 2
    lines = [json.loads(line) for line in (tmp_path / "kept").read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"cleaner: {name}" for name in rows]
    assert lines[-1]["figures"]["pair_accuracy"] == 1.0
    assert lines[-2]["figures"]["pair_accuracy"] > 0.99  # but for images with no right neighbour at all
    said = []
    assert cleaner(Measured(on, tmp_path / "kept", said.append), [0]) == text
    assert said == []


def test_the_share_of_the_gap():
    found = {
        LOWER: [{BEST: 0.8, FINAL: 0.92}, {BEST: 0.9, FINAL: 0.94}],
        "filter": [{BEST: 0.86, FINAL: 0.92}, {BEST: 0.9, FINAL: 0.93}],
        UPPER: [{BEST: 0.97, FINAL: 0.91}, {BEST: 0.93, FINAL: 0.91}],
    }
    assert closed(found) == [
        "- filter closes of the gap to true neighbours: best head 30 % of 10.00 points, "
        "self-training none to close (-2.00 points)."
    ]
