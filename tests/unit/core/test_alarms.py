"""Collapse alarms: each provoked, by a training that really collapses where it can be, and none where all is well."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from icce_ray.core.alarms import (
    LEAST_AGREEMENT,
    cluster_sizes,
    divided,
    head_alarms,
    shared_division,
)
from icce_ray.core.consensus import consensus
from icce_ray.core.consensus.clusters import collapse
from icce_ray.core.consensus.ensemble import LocalRows, alarms_of
from icce_ray.core.consensus.tally import division_moments
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer
from icce_ray.search.partition import PARTITIONERS

SMALL = {"heads": 4, "hidden": 16, "bottleneck": 8, "epochs": 30, "batch_size": 64}
SMALL |= {"learning_rate": 0.03, "warmup_epochs": 2, "teacher_momentum": 0.9}


def trained(n_clusters=8, **switches):
    """Losses [epochs, H] and labels [N, H] of heads on eight blobs."""
    rows, _ = make_blobs(400, n_features=16, centers=8, cluster_std=1.5, random_state=3)
    features = torch.from_numpy(rows.astype(np.float32))
    lists = mine(features, Limits(0.3, 5, 50))
    recipe = Recipe(**SMALL | switches)
    trainer = HeadTrainer(features, lists, n_clusters=n_clusters, recipe=recipe, seed=0)
    losses = np.stack([trainer.run_epoch().temi.numpy() for _ in range(recipe.epochs)])
    return losses, trainer.labels(features).numpy()


def names(alarms):
    return [alarm.name for alarm in alarms]


def test_a_healthy_training_raises_none():
    losses, labels = trained()
    assert head_alarms(losses, cluster_sizes(labels, 8)) == []
    found = consensus(labels, 8, PARTITIONERS, methods=("mcla",))
    assert found.alarms == []


@pytest.mark.parametrize(
    ("switches", "expected", "remedy"),
    [
        ({"learning_rate": 1e-12}, "stopped", "raise the learning rate"),
        ({"learning_rate": 1e30}, "diverged", "lower the learning rate"),
        ({"teacher": "softmax", "beta": 0.05}, "collapsed", "train with teacher=sinkhorn and beta=0.6"),
        ({"teacher": "softmax", "weight_decay": 300.0}, "collapsed", "lower weight_decay"),
        ({"teacher": "softmax", "beta": 1.0}, "empty_clusters", "ask for fewer clusters"),
        ({"n_clusters": 60}, "collapsed", "ask for fewer clusters"),
    ],
)
def test_trainings_that_fail(switches, expected, remedy):
    losses, labels = trained(**switches)
    alarms = head_alarms(losses, cluster_sizes(labels, switches.get("n_clusters", 8)))
    found = {alarm.name: alarm for alarm in alarms}
    assert expected in found
    assert remedy in found[expected].text
    assert "limit: " in found[expected].text
    json.dumps([alarm.as_dict() for alarm in alarms], allow_nan=False)


def test_heads_are_named():
    losses = np.linspace(-0.1, -1.0, 5)[:, None].repeat(12, axis=1)
    losses[:, 1:] = -0.1
    (alarm,) = head_alarms(losses, np.full((12, 4), 10))
    assert alarm.value == pytest.approx(0.0)
    assert alarm.text.startswith("the loss of heads 1, 2, 3, 4, 5, 6, 7, 8 and 3 more fell by 0.0% of log K at most")


def test_one_epoch_or_one_cluster_says_nothing():
    assert head_alarms(np.full((1, 3), -0.1), np.full((3, 4), 10)) == []
    assert head_alarms(np.zeros((9, 3)), np.full((3, 1), 10)) == []


def test_a_head_that_is_lost_is_not_counted_among_the_others():
    sizes = np.full((10, 20), 5)
    sizes[0, 1:] = 0
    assert names(head_alarms(np.linspace(0, -2, 4)[:, None].repeat(10, 1), sizes)) == ["collapsed"]


def test_cluster_sizes():
    labels = np.random.default_rng(0).integers(0, 5, (70, 3)).astype(np.int32)
    expected = [np.bincount(column, minlength=6) for column in labels.T]
    np.testing.assert_array_equal(cluster_sizes(labels, 6), expected)


def test_heads_that_guess_disagree():
    labels = np.random.default_rng(0).integers(0, 6, (900, 12)).astype(np.int32)
    found = consensus(labels, 6, PARTITIONERS, methods=("mcla",))
    assert found.agreement.mean() < LEAST_AGREEMENT
    (alarm,) = found.alarms
    assert alarm.name == "disagreement"
    assert alarm.value == pytest.approx(found.agreement.mean())


def test_a_label_without_images():
    labels = np.repeat([[0, 1], [1, 0]], 5, axis=0)  # two rows cannot make three labels
    found = consensus(labels, 3, PARTITIONERS, methods=("cspa",))
    assert names(found.alarms) == ["empty_labels"]
    assert "1 of 3 labels have no image" in found.alarms[0].text


def noisy_heads(truth, n_clusters, n_heads=10, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.where(rng.random(truth.size) < noise, rng.integers(0, n_clusters, truth.size), truth)
            for _ in range(n_heads)
        ],
        axis=1,
    ).astype(np.int32)


def alarms_for(labels, label):
    """Alarms of a labelling int[N] of the images of head labels int[N, H], K = 6, all heads agreeing enough."""
    rows = collapse(labels)
    of_rows = np.empty(rows.counts.size, np.int32)
    of_rows[rows.index] = label
    local = LocalRows(rows)
    return alarms_of(local, of_rows, local.tally(of_rows, 6), 0.9)


def test_two_classes_in_one_label():
    truth = np.repeat(np.arange(6), 100)
    labels = noisy_heads(truth, 6)
    merged = alarms_for(labels, np.where(truth == 5, 4, truth))
    assert names(merged) == ["empty_labels", "merged_labels"]
    assert merged[1].text.startswith("label 4 look")
    assert alarms_for(labels, truth) == []


def test_a_class_that_heads_cut_up_each_in_its_own_way_is_one():
    """As with one class larger than equal clusters: every head divides it, no two alike."""
    truth = np.repeat(np.arange(5), [200, 100, 100, 100, 100])
    labels = noisy_heads(truth, 5, noise=0.0)
    rng = np.random.default_rng(1)
    labels[:200] = np.where(rng.random((200, 10)) < 0.5, 0, 5)
    rows = collapse(labels)
    found = LocalRows(rows).tally(np.where(rows.labels[:, 1] == 5, 0, rows.labels[:, 1]).astype(np.int32), 6)
    assert divided(found.sizes, found.split).tolist() == [0]
    assert names(alarms_for(labels, truth)) == ["empty_labels"]


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_shared_division_against_a_loop(share):
    rng = np.random.default_rng(2)
    label, counts = rng.integers(0, 4, 300), rng.integers(1, 4, 300)
    half = rng.random(300) < share
    labels = np.where(rng.random((300, 5)) < 0.1, rng.integers(0, 2, (300, 5)), half[:, None]).astype(np.int32)
    clusters = rng.integers(0, 2, (5, 4)).astype(np.int32)
    chosen = np.array([3, 1])
    moments = division_moments(labels, label, chosen, clusters, counts)
    sizes = np.bincount(label, weights=counts, minlength=4)[chosen].astype(np.int64)
    expected = []
    for k in chosen:
        inside = np.repeat(labels[label == k] == clusters[:, k], counts[label == k], axis=0).astype(float)
        expected.append(4 * np.linalg.eigvalsh(np.cov(inside.T, bias=True))[-1] / 5)
    np.testing.assert_allclose(shared_division(moments, sizes), expected, rtol=1e-10)
    parts = [division_moments(labels[s], label[s], chosen, clusters, counts[s]) for s in (slice(90), slice(90, None))]
    np.testing.assert_allclose(sum(parts), moments)
