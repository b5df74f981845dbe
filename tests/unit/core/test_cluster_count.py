"""The number of clusters from what heads agree on: the spectrum against a dense one, the drop, and real trainings."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.core import cluster_count
from icce_ray.core.cluster_count import (
    FEWEST,
    FEWEST_HEADS,
    MOST_HEADS,
    REACH,
    TOGETHER,
    TRAVEL,
    CountEvidence,
    Drop,
    brief,
    choose_clusters,
    counts_to_try,
    evidence,
    graph_gaps,
    in_reach,
    spectrum,
)
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from jobs.paper.synthetic import FeatureModel, draw
from tests.failures import fails

RECIPE = Recipe(
    heads=12, hidden=64, bottleneck=32, epochs=30, warmup_epochs=3, batch_size=128, learning_rate=4e-3,
    teacher_momentum=0.97,
)  # fmt: skip


def mean_projection(labels):
    """The obvious way: one n x n projection a head."""
    total = 0.0
    for head in labels.T:
        indicators = np.eye(head.max() + 1)[head]
        indicators = indicators[:, indicators.any(0)]
        total = total + indicators @ np.linalg.pinv(indicators)
    values = np.linalg.eigvalsh(total / labels.shape[1])[::-1]
    return values[values > 1e-9]


@pytest.mark.parametrize("count", [3, 7, 100])
def test_the_spectrum_is_that_of_the_mean_projection(count):
    generator = np.random.default_rng(0)
    sets = [generator.integers(0, k, size=(60, 4)) for k in (3, 5)]
    true = mean_projection(np.concatenate(sets, axis=1))
    found = spectrum(sets, count)
    assert len(found) == min(count, 4 * 3 + 4 * 5)
    shown = min(count, len(true))
    np.testing.assert_allclose(found[:shown], true[:shown], atol=1e-9)
    np.testing.assert_allclose(found[shown:], 0.0, atol=1e-9)
    assert found[0] == pytest.approx(1.0)


def test_clusters_without_images_change_nothing():
    labels = np.random.default_rng(0).integers(0, 4, size=(50, 3))
    gapped = labels * 2  # every other cluster is empty
    np.testing.assert_allclose(spectrum([gapped], 6), spectrum([labels], 6))


def joined_or_divided(classes, count, heads, generator):
    """Heads that join random classes, or divide random ones at random, until there are `count`."""
    n_classes, columns = classes.max() + 1, []
    for _ in range(heads):
        if count <= n_classes:
            order = generator.permutation(n_classes)
            names = np.empty(n_classes, dtype=np.int64)
            names[order[:count]] = np.arange(count)
            names[order[count:]] = generator.integers(0, count, n_classes - count)
            columns.append(names[classes])
        else:
            label = classes.copy()
            for new in range(n_classes, count):
                inside = np.flatnonzero(label == generator.integers(0, new))
                label[inside[generator.random(len(inside)) < 0.5]] = new
            columns.append(label)
    return np.stack(columns, axis=1).astype(np.int32)


def test_the_interval_holds_what_is_nearly_as_clear():
    ratios = {7: 0.6, 8: 0.55, 9: 0.9, 10: 0.4, 11: 0.5, 12: 0.57}
    found = CountEvidence(10, tuple(Drop(count, ratio, (4, 6, 8)) for count, ratio in ratios.items()), ())
    assert found.interval == (8, 11)


def test_the_graph_of_neighbours_has_its_clearest_gap_at_the_number_of_compact_groups():
    """12 directions, 3 degrees wide, of which pairs lie 40 degrees apart: pairs are groups as well, less clearly."""
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(6, 32))
    pairs /= np.linalg.norm(pairs, axis=1, keepdims=True)
    apart = generator.normal(size=(12, 32))
    centres = np.repeat(pairs, 2, axis=0) + 0.35 * apart / np.linalg.norm(apart, axis=1, keepdims=True)
    rows = np.repeat(centres, 50, axis=0) + 0.12 * generator.normal(size=(600, 32)) / np.sqrt(32)
    lists = mine(torch.tensor(rows, dtype=torch.float32), Limits(1.0, 24, 24))
    assert graph_gaps(lists, 4, 200)[0] == 12


@pytest.mark.parametrize("n_classes", [5, 17, 60])
def test_heads_that_join_and_divide_classes_at_random_agree_on_their_number(n_classes):
    generator = np.random.default_rng(n_classes)
    classes = np.repeat(np.arange(n_classes), 30)
    labels = {k: joined_or_divided(classes, k, 12, generator) for k in counts_to_try(4, 120)}
    found = evidence(labels, 4, 120)
    assert found.clusters == n_classes
    ratios = {drop.clusters: drop.ratio for drop in found.curve}
    assert sorted(ratios) == [drop.clusters for drop in found.curve]
    assert found.ratio == ratios[n_classes] < 0.8 * sorted(ratios.values())[1]
    assert all(0 <= ratio <= 1 for ratio in ratios.values())
    assert found.interval[0] <= n_classes <= found.interval[1]
    assert all(drop.given[-1] <= drop.clusters <= REACH * drop.given[0] for drop in found.curve)


@pytest.mark.parametrize(
    ("n_classes", "n_images", "high"), [(6, 240, 14), pytest.param(24, 1800, 60, marks=pytest.mark.slow(25))]
)
def test_trained_heads_find_the_classes_of_synthetic_features(n_classes, n_images, high, monkeypatch):
    monkeypatch.setattr(cluster_count, "MOST_HEADS", FEWEST_HEADS)  # enough here, and three times as fast
    rows, _ = draw(FeatureModel(n_clusters=n_classes, dim=64), n_images, 0)
    found = choose_clusters(
        rows.features,
        low=FEWEST,
        high=high,
        k_min=4,
        recipe=RECIPE,
        seed=0,
        precision="float32",
    )
    assert abs(found.clusters - n_classes) <= (1 if n_classes > 10 else 0)


def test_a_pilot_is_short_in_epochs_and_in_steps():
    few = brief(dataclasses.replace(RECIPE, batch_size=100, learning_rate=2.56e-3), 1000, 2)  # 1e-2 an epoch
    assert (few.epochs, few.heads, few.ce_weight) == (10, MOST_HEADS, 0.0)  # a third of the epochs
    many = brief(dataclasses.replace(RECIPE, batch_size=100, learning_rate=2.56e-2, warmup_epochs=9), 1000, 2)
    assert (many.epochs, many.warmup_epochs) == (5, 1)  # 0.1 an epoch
    assert many.epochs * 10 * 1e-2 == pytest.approx(TRAVEL)


def test_heads_of_few_clusters_are_many():
    heads = [brief(RECIPE, 1000, count).heads for count in (2, 16, 20, 30, 49, 50, 400)]
    assert heads == [MOST_HEADS, MOST_HEADS, 60, 40, 25, FEWEST_HEADS, FEWEST_HEADS]


@settings(deadline=None, max_examples=50)
@given(low=st.integers(FEWEST, 50), more=st.integers(1, 1000))
def test_every_number_is_in_reach_of_some_heads(low, more):
    tried = counts_to_try(low, low + more)
    assert tried[0] == low // 2
    assert tried[-1] < low + more
    assert all(a < b for a, b in itertools.pairwise(tried))
    windows = list(zip(tried, tried[TOGETHER - 1 :], strict=False))
    for clusters in range(low, low + more + 1):
        assert any(last <= clusters <= int(REACH * first) for first, last in windows), clusters


def test_limits_say_what_to_do():
    with fails(ValueError, "[8, 8]", "4 <= lowest < highest"):
        counts_to_try(8, 8)
    with fails(ValueError, "[3, 8]"):
        counts_to_try(3, 8)
    assert in_reach(1000, 20, 4, 256) == (4, 50)
    assert in_reach(10**6, 50, 4, 256) == (4, 256)
    with fails(ValueError, "100 images", "k_min = 50", "2 clusters"):
        in_reach(100, 50, 4, 256)
    rows, _ = draw(FeatureModel(n_clusters=4, dim=16), 60, 0)
    with fails(ValueError, "60 images", "up to 60 clusters"):
        choose_clusters(rows.features, low=4, high=60, k_min=1, recipe=RECIPE, seed=0)
