"""Figures of a study: kept once measured, and made of what the stages found; labels judge and nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from icce_ray.core.recipe import Recipe
from icce_ray.estimator import ICCE
from jobs.paper.baselines.kmeans import kmeans
from jobs.paper.feature_sets import automatic_base, brought, synthetic
from jobs.paper.icce import ensemble, self_training, stage_one, train
from jobs.paper.measure import Measured
from jobs.paper.synthetic import FeatureModel
from jobs.paper.variants import Variant, lists_of, mined
from tests.failures import fails

RECIPE = Recipe(
    heads=4, hidden=32, bottleneck=16, epochs=12, warmup_epochs=2, batch_size=64, learning_rate=3e-3,
    teacher_momentum=0.95,
)  # fmt: skip


@pytest.fixture(scope="module")
def on():
    model = FeatureModel(n_clusters=5, dim=32, leaning=0.0, atypical=0.1)
    found = synthetic(400, model=model)
    return dataclasses.replace(found, base=Variant(threshold=0.4, k_min=5, recipe=RECIPE, iterations=100))


@pytest.fixture(scope="module")
def noise(on):
    """The same features with classes that mean nothing."""
    generator = np.random.default_rng(1)
    return dataclasses.replace(
        on, classes=generator.permutation(on.classes), unseen_classes=generator.permutation(on.unseen_classes)
    )


def test_the_figures_are_those_of_the_stages(on, tmp_path):
    figures = Measured(on, tmp_path / "kept").variant("icce", on.base, 0)
    assert figures["self_training.unseen.acc"] > 0.9
    assert figures["best_head.unseen.acc"] > 0.8
    assert 0.9 < figures["pair_accuracy"] < 1.0
    assert figures["used_clusters"] == 5
    kmeans_figures = Measured(on, tmp_path / "kept").rival("k-means", kmeans(), 0)
    assert kmeans_figures["fitted.unseen.acc"] > 0.7


@pytest.mark.slow(13)
def test_a_set_with_nothing_set_has_the_inputs_and_recipe_of_the_estimator(on):
    found = automatic_base(on)
    model = ICCE(5, random_state=0).fit(on.features.numpy())
    choice = dataclasses.asdict(model.choice_)
    base = dataclasses.asdict(found.base) | dataclasses.asdict(found.base.recipe)
    assert {name: base[name] for name in choice if name in base}.items() <= choice.items()
    assert found.features.shape == (400, choice["components"])
    trained = train(found.features, lists_of(found.base, mined(found.features, 5, found.base), None), 5, found.base, 0)
    assert np.array_equal(trained.head_labels, model.head_labels_)
    assert found.unseen.shape == (len(on.unseen), choice["components"])


def test_what_was_measured_is_not_measured_again(on, tmp_path):
    said, kept = [], tmp_path / "deep" / "kept.jsonl"
    first = Measured(on, kept, said.append).variant("one", on.base, 0)
    assert len(said) == 2
    assert Measured(on, kept, said.append).variant("by another name", on.base, 0) == first
    assert len(said) == 2
    other = Measured(on, kept, said.append).variant("one", on.base, 1)
    assert len(said) == 4
    assert other != first
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert lines[0]["settings"]["variant"]["recipe"]["heads"] == 4


def test_no_label_reaches_training_or_selection(on, noise):
    """With classes that are noise every stage gives the same clusters, of rows seen and not seen."""
    found = []
    for each in (on, noise):
        lists = lists_of(each.base, mined(each.features, 5, each.base), each.classes)
        trained = train(each.features, lists, 5, each.base, 0)
        stages = [fit(trained) for fit in (stage_one, ensemble, self_training)]
        found.append([labels for stage in stages for labels in (stage.labels, stage.predict(each.unseen))])
    for real, noisy in zip(*found, strict=True):
        assert np.array_equal(real, noisy)


def test_labels_of_noise_judge_badly(noise, tmp_path):
    assert Measured(noise, tmp_path / "kept").variant("icce", noise.base, 0)["self_training.unseen.acc"] < 0.45


def test_a_matrix_of_ones_own(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", generator.normal(size=(50, 8)).astype(np.float16))
    np.save(tmp_path / "y.npy", np.repeat([3, 9], 25))
    mine = brought(tmp_path / "x.npy", tmp_path / "y.npy", Variant())
    assert (mine.features.shape, mine.unseen.shape, mine.n_clusters) == ((40, 8), (10, 8), 2)
    assert set(mine.classes.tolist()) == {0, 1}
    np.save(tmp_path / "short.npy", np.zeros(3, int))
    with fails(ValueError, "(50, 8)", "(3,)"):
        brought(tmp_path / "x.npy", tmp_path / "short.npy", Variant())
