"""Votes of matched heads: the matching is the best there is, and they are cast as a slow count says."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch

from icce_ray.core.recipe import Recipe
from jobs.paper.aligned import GRAPH, HARD, SOFT, aligned, compared, matched, voted, votes
from jobs.paper.feature_sets import synthetic
from jobs.paper.icce import train
from jobs.paper.measure import Measured
from jobs.paper.synthetic import FeatureModel
from jobs.paper.variants import Variant

RECIPE = Recipe(
    heads=4, hidden=32, bottleneck=16, epochs=10, warmup_epochs=1, batch_size=64, learning_rate=3e-3,
    teacher_momentum=0.95,
)  # fmt: skip


@pytest.fixture(scope="module")
def measure(tmp_path_factory):
    found = synthetic(400, model=FeatureModel(n_clusters=5, dim=32, leaning=0.0, atypical=0.1))
    base = Variant(threshold=0.4, k_min=5, recipe=RECIPE, iterations=50)
    return Measured(dataclasses.replace(found, base=base), tmp_path_factory.mktemp("aligned") / "kept")


@pytest.fixture(scope="module")
def trained(measure):
    base = measure.on.base
    return train(measure.on.features, measure.lists(base), 5, base, 0)


def test_the_matching_is_the_best_of_all():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (60, 3)).astype(np.int32)
    label = labels[:, 0]
    order = matched(labels, label, 4)
    assert order[0].tolist() == [0, 1, 2, 3]
    for head in (1, 2):
        right = [int((np.array(one)[label] == labels[:, head]).sum()) for one in permutations(range(4))]
        assert int((order[head][label] == labels[:, head]).sum()) == max(right)


@pytest.mark.parametrize("soft", [True, False])
def test_votes_are_the_slow_count(measure, trained, soft):
    label, order = voted(trained, soft=soft)
    trainer = trained.trainer
    x = (measure.on.unseen - trainer.mean) / trainer.std
    total = np.zeros((len(x), 5))
    probabilities = torch.cat([chunk.logits(x, temperature=0.1).softmax(-1) for chunk in trainer.gather_teacher()])
    for head, each in enumerate(probabilities.detach().numpy()):
        for k in range(5):
            cluster = order[head][k]
            total[:, k] += each[:, cluster] if soft else each.argmax(1) == cluster
    assert np.array_equal(votes(trained, measure.on.unseen, order, soft=soft), total.argmax(1))
    assert np.array_equal(votes(trained, measure.on.features, order, soft=soft), label)


def test_the_table_and_its_verdicts(measure):
    figures = compared(measure, 0)
    assert figures[f"{SOFT}.seen"] > 0.8
    assert figures[f"{GRAPH}.used"] == 5
    text = aligned(measure, [0])
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == [GRAPH, SOFT, HARD]
    assert f"| {100 * figures[f'{SOFT}.unseen']:.2f} |" in text
    assert len([line for line in text.splitlines() if line.startswith("- ")]) == 6


def test_votes_are_equal_where_the_difference_is_below_its_error(measure, monkeypatch):
    columns = ("seen", "unseen", "self_training", "used", "seconds")
    drawn = {GRAPH: (0.9, 0.9), SOFT: (0.91, 0.88), HARD: (0.8, 0.7)}
    figures = [{f"{name}.{c}": both[seed] for name, both in drawn.items() for c in columns} for seed in (0, 1)]
    monkeypatch.setattr("jobs.paper.aligned.compared", lambda _, seed: figures[seed])
    text = aligned(measure, [0, 1])
    assert (
        "- soft votes against the graph ensemble, unseen: -0.50 +- 1.50 points: equal within two standard errors."
        in text
    )
    assert "- hard votes against the graph ensemble, seen: -15.00 +- 5.00 points: worse." in text
