"""Variants: what changes where, and which neighbours they train on."""

import torch

from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from jobs.paper.synthetic import FeatureModel, draw
from jobs.paper.variants import Variant, lists_of, mined
from tests.failures import fails

DRAWN = draw(FeatureModel(n_clusters=5, dim=32), 300, 0)[0]
BASE = Variant(threshold=0.4, k_min=4, recipe=Recipe(heads=2))


def test_a_change_goes_where_its_field_is():
    changed = BASE.but(threshold=0.7, heads=5)
    assert (changed.threshold, changed.recipe.heads, changed.k_min) == (0.7, 5, 4)
    assert (BASE.threshold, BASE.recipe.heads) == (0.4, 2)
    with fails(TypeError, "nonsense"):
        BASE.but(nonsense=1)


def test_clusters_are_a_share_of_the_classes():
    assert [BASE.but(clusters=share).n_clusters(100) for share in (0.8, 1.0, 1.2)] == [80, 100, 120]
    assert BASE.but(clusters=0.1).n_clusters(10) == 2


def test_one_search_serves_every_threshold():
    lowest = mined(DRAWN.features, 5, BASE)
    for threshold in (0.2, 0.8):
        lists = lists_of(BASE.but(threshold=threshold), lowest, DRAWN.classes)
        alone = mine(DRAWN.features, Limits(threshold, 4, 60))
        assert torch.equal(lists.ids.long(), alone.ids.long())
        assert torch.equal(lists.offsets, alone.offsets)


def test_fixed_neighbours_are_the_nearest():
    lowest = mined(DRAWN.features, 5, BASE)
    lists = lists_of(BASE.but(neighbors="fixed"), lowest, DRAWN.classes)
    assert lists.counts.unique().tolist() == [4]


def test_equal_numbers_are_the_mean_of_the_adaptive_ones():
    lowest = mined(DRAWN.features, 5, BASE)
    adaptive, equal = (lists_of(one, lowest, DRAWN.classes) for one in (BASE, BASE.but(neighbors="equal")))
    assert len(adaptive.counts.unique()) > 1
    assert equal.counts.unique().tolist() == [round(float(adaptive.counts.double().mean()))]
    alone = mine(DRAWN.features, Limits(1.0, int(equal.counts[0]), int(equal.counts[0])))
    assert torch.equal(equal.ids.long(), alone.ids.long())


def test_true_neighbours_are_the_class_and_need_it():
    lowest = mined(DRAWN.features, 5, BASE)
    lists = lists_of(BASE.but(neighbors="ground_truth"), lowest, DRAWN.classes)
    own = torch.repeat_interleave(DRAWN.classes, lists.counts)
    assert torch.equal(DRAWN.classes[lists.ids.long()], own)
    assert torch.equal(lists.counts, torch.bincount(DRAWN.classes)[DRAWN.classes] - 1)
    turned = lists_of(BASE, lowest, DRAWN.classes.flip(0))
    assert torch.equal(turned.ids, lists_of(BASE, lowest, DRAWN.classes).ids)
