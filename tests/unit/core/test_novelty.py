"""New classes that are planted among new images are announced, and what is not there is not."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from icce_ray.core.novelty import DRIFT_LIMIT, drift, far_images, unsure

KNOWN, NEW, HELD_OUT = 800, 300, 4


@pytest.fixture(scope="module")
def digits():
    """Pixels less their mean, and classes."""
    found = load_digits()
    return (found.data - found.data.mean(0)).astype(np.float32), found.target


@pytest.fixture(scope="module")
def of_old_classes(digits):
    """Rows of the run, and of others of its classes."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(digits[1] != HELD_OUT))
    return rows[:KNOWN], rows[KNOWN:]


def found(digits, known, new):
    values, classes = digits
    return far_images(torch.from_numpy(values[known]), classes[known], torch.from_numpy(values[new]))


def test_a_planted_class_of_a_tenth_is_announced(digits, of_old_classes):
    known, others = of_old_classes
    planted = np.flatnonzero(digits[1] == HELD_OUT)[: NEW // 10]
    new = np.random.default_rng(1).permutation([*others[: NEW - len(planted)], *planted])
    (candidate,) = found(digits, known, new).candidates
    assert np.isin(new[candidate.rows], planted).mean() >= 0.95
    assert 0.5 * len(planted) < candidate.images < 1.5 * len(planted)


def test_twenty_draws_of_the_old_classes_raise_no_alarm(digits, of_old_classes):
    known, others = of_old_classes
    values, classes = digits
    model = LogisticRegression(max_iter=200).fit(values[known], classes[known])
    chances = model.predict_proba(values)
    label, confidence = model.classes_[chances.argmax(1)], chances.max(1)
    for seed in range(20):
        new = np.random.default_rng(seed).choice(others, NEW, replace=False)
        assert found(digits, known, new).candidates == []
        assert not drift(np.bincount(label[known], minlength=10), np.bincount(label[new], minlength=10)).alarming
        assert not unsure(confidence[known], confidence[new]).alarming


def test_a_few_new_images_and_images_far_from_each_other_are_no_candidate():
    random = torch.Generator().manual_seed(0)
    known = torch.eye(50)[0] + 0.01 * torch.randn(200, 50, generator=random)
    far = torch.eye(50)[1:41]  # as far from each other as from the run
    assert far_images(known, np.zeros(200, int), far[:3]).candidates == []
    apart = far_images(known, np.zeros(200, int), far)
    assert (apart.share, apart.candidates) == (1.0, [])


def test_another_mixture_is_measured_against_the_chance_of_so_few_images():
    known = np.full(10, 1000)
    twice = np.array([2, 2, 2, 2, 2, 1, 1, 1, 1, 1])
    few, many = drift(known, twice), drift(known, twice * 100)
    assert few.value == many.value == pytest.approx(1 / 6)
    assert not few.alarming
    assert many.alarming
    assert many.limit == DRIFT_LIMIT


def test_unsure_images_are_counted_below_nearly_all_of_the_runs_own():
    known = np.linspace(0, 1, 1001)
    assert unsure(known, np.linspace(0, 1, 1000)).value == pytest.approx(0.05, abs=0.002)
    assert not unsure(known, np.linspace(0, 1, 1000)).alarming
    assert unsure(known, np.linspace(0, 0.1, 1000)).alarming
