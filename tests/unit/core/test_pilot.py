"""A threshold without labels: the estimated accuracy of neighbours is near the true one, and the rule on the curve."""

import dataclasses

import pytest
import torch

from icce_ray.core.neighbors import Limits, Neighbors, apply_limits
from icce_ray.core.pilot import (
    FLOOR,
    Point,
    candidates,
    choose_threshold,
    lowest,
    pilot_recipe,
    pilot_rows,
    scaled,
)
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from icce_ray.core.selection import pair_accuracy
from icce_ray.search.partition import PARTITIONERS
from jobs.paper.synthetic import FeatureModel, draw
from tests.failures import fails

RECIPE = Recipe(
    heads=8, hidden=64, bottleneck=32, epochs=30, warmup_epochs=3, batch_size=128, learning_rate=4e-3,
    teacher_momentum=0.97,
)  # fmt: skip
WIDEST = Limits(-1.0, 5, 120)
TOOLS = {"partitioners": PARTITIONERS}


@pytest.fixture(scope="module")
def drawn():
    return draw(FeatureModel(n_clusters=10, dim=64, kinship=0.45), 1200, 0)[0]


def test_the_estimate_is_near_the_truth_at_every_threshold(drawn):
    found = choose_threshold(drawn.features, n_clusters=10, widest=WIDEST, recipe=RECIPE, seed=0, **TOOLS)
    lists = mine(drawn.features, Limits(-1.0, 5, 120))
    true = [pair_accuracy(apply_limits(lists, Limits(point.threshold, 5, 120)), drawn.classes) for point in found.curve]
    assert min(true) < 0.8 < 0.95 < max(true)  # else any estimate would do
    for point, accuracy in zip(found.curve, true, strict=True):
        assert point.accuracy == pytest.approx(accuracy, abs=0.08)
    chosen = next(point for point in found.curve if point.threshold == found.threshold)
    assert chosen.accuracy >= found.floor
    assert 0.9 < found.floor <= FLOOR
    assert 15 < chosen.mean_neighbors < 110


def test_the_same_seed_finds_the_same(drawn):
    recipe = dataclasses.replace(RECIPE, epochs=6)
    given = {"n_clusters": 10, "widest": WIDEST, "recipe": recipe}
    first, again = (choose_threshold(drawn.features, seed=3, **given, **TOOLS) for _ in range(2))
    assert first == again


def test_candidates_run_from_few_neighbours_to_nearly_all(drawn):
    lists = mine(drawn.features, Limits(-1.0, 5, 120))
    found = candidates(lists, WIDEST, 12)
    means = [float(apply_limits(lists, Limits(one, 5, 120)).counts.double().mean()) for one in found]
    assert found == sorted(found, reverse=True)
    assert means == sorted(means)
    assert 5 < means[0] < 8
    assert 115 < means[-1] <= 120
    steps = torch.tensor(means[:-1]).log().diff()
    assert float(steps.max() / steps.min()) < 2.5


def test_lists_without_a_choice_have_one_candidate(drawn):
    lists = mine(drawn.features[:50], Limits(-1.0, 5, 5))
    assert candidates(lists, Limits(-1.0, 5, 5)) == [1.0]
    empty = Neighbors(torch.zeros(3, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))
    assert candidates(empty, Limits(-1.0, 1, 2)) == [1.0]


def curve(*accuracies):
    return tuple(Point(0.9 - 0.1 * number, 10.0 * number, value) for number, value in enumerate(accuracies))


def test_the_lowest_threshold_above_the_floor_is_taken():
    assert lowest(curve(0.96, 0.99, 0.97, 0.95, 0.90)).threshold == pytest.approx(0.6)
    assert lowest(curve(0.96, 0.99, 0.93, 0.95, 0.90)).threshold == pytest.approx(0.6)


def test_where_none_reaches_the_floor_it_follows_the_best():
    found = lowest(curve(0.80, 0.82, 0.80, 0.79, 0.50))
    assert found.floor == pytest.approx(0.97 * 0.82)
    assert found.threshold == pytest.approx(0.7)


def test_the_pilot_is_small():
    short = pilot_recipe(Recipe(), heads=12, epochs=133)
    assert (short.heads, short.epochs, short.warmup_epochs, short.ce_weight) == (12, 133, 20, 0.0)
    assert pilot_recipe(Recipe(), heads=12, epochs=2).warmup_epochs == 1
    assert (pilot_rows(10**9, 100), pilot_rows(10**9, 1000), pilot_rows(500, 10)) == (20_000, 50_000, 500)
    assert (scaled(50, 20_000, 10**6), scaled(50, 500, 500), scaled(1000, 20_000, 10**6)) == (1, 50, 20)


def test_one_cluster_needs_no_threshold(drawn):
    with fails(ValueError, "at least 2 clusters"):
        choose_threshold(drawn.features, n_clusters=1, widest=WIDEST, recipe=RECIPE, seed=0, **TOOLS)
