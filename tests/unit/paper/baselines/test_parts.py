"""The pieces of the rivals, each against what it says or with its point taken away."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from icce_ray.core.search import unit_rows
from jobs.paper.baselines.asd import transitions
from jobs.paper.baselines.kmeans import kmeans
from jobs.paper.baselines.rows import batches, confident_cross_entropy, dropped, scaling
from jobs.paper.baselines.scan import scan
from jobs.paper.baselines.turtle import generalization, turtle
from tests.failures import fails
from tests.unit.paper.baselines.test_rivals import blobs


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- rows ------------------------------------------------------------------------------------------------------


def test_rows_are_scaled_by_the_rows_fitted():
    fitted, other = torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([[6.0, 8.0]])
    torch.testing.assert_close(scaling(fitted)(other), other / 12.5**0.5)


def test_batches_are_epochs_without_their_last_rows():
    drawn = list(batches(10, 4, 5, generator()))
    assert [len(rows) for rows in drawn] == [4] * 5
    assert all(len(set(torch.cat(drawn[i : i + 2]).tolist())) == 8 for i in (0, 2))
    assert sorted(next(batches(3, 4, 1, generator())).tolist()) == [0, 1, 2]


# -- pseudo-labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
def test_only_confident_rows_are_learned(balanced):
    targets = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [1, 0, 0]])
    logits = torch.randn(4, 3, generator=generator())
    each = F.cross_entropy(logits, torch.tensor([0, 0, 1, 0]), reduction="none")
    expected = (each[:2].mean() + each[2]) / 2 if balanced else each[:3].sum() / 4
    torch.testing.assert_close(confident_cross_entropy(logits, targets, 0.99, balanced=balanced), expected)


@pytest.mark.parametrize("balanced", [True, False])
def test_without_confident_rows_nothing_is_learned(balanced):
    logits = torch.randn(4, 3, requires_grad=True)
    loss = confident_cross_entropy(logits, torch.zeros(4, 3), 0.99, balanced=balanced)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dropout_keeps_the_mean_and_a_share_of_zero_changes_nothing():
    x = torch.ones(1000, 20)
    thinned = dropped(x, 0.25, generator())
    assert (thinned == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert thinned.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropped(x, 0.0, generator()), x)


# -- k-means ---------------------------------------------------------------------------------------------------


def test_new_rows_get_the_nearest_centre_whatever_their_length():
    rows, new = unit_rows(blobs(120, 0.15)[0]), unit_rows(blobs(60, 0.15, seed=1)[0])
    found = kmeans()(rows * (1 + 9 * torch.rand(120, 1, generator=generator())), 4, 0)
    np.testing.assert_array_equal(found.labels, kmeans()(rows, 4, 0).labels)
    centres = torch.stack([rows[torch.from_numpy(found.labels) == k].mean(0) for k in range(4)])
    np.testing.assert_array_equal(found.predict(3 * new), torch.cdist(new, centres).argmin(1).numpy())


# -- SCAN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rival", "settings", "without"),
    [
        (scan, {"heads": 4, "neighbors": 5, "self_label_steps": 0}, {"entropy_weight": 0.0}),
        (turtle, {"starts": ["warm"], "learning_rates": [0.03]}, {"gamma": 0.0}),
    ],
)
def test_without_the_entropy_rows_that_share_a_direction_collapse(rival, settings, without):
    rows = blobs(240, 0.1)[0] + torch.ones(64) / 8
    settings = settings | {"steps": 150, "batch_size": 128}
    assert len(set(rival(**settings)(rows, 4, 0).labels)) == 4
    assert len(set(rival(**settings, **without)(rows, 4, 0).labels)) < 4


# -- TURTLE ----------------------------------------------------------------------------------------------------


def test_generalization_is_high_for_labels_a_linear_classifier_can_learn():
    rows, truth = blobs(400, 0.04)
    shuffled = torch.from_numpy(truth)[torch.randperm(400, generator=generator())]
    assert generalization(rows, torch.from_numpy(truth), 4, 0) == 1.0
    assert generalization(rows, shuffled, 4, 0) < 0.5


def test_turtle_keeps_the_choice_that_generalises_best(monkeypatch):
    from jobs.paper.baselines import turtle as module

    rows, _ = blobs(120, 0.25)
    same = {"steps": 30, "batch_size": 64}
    each = [
        turtle(**same, starts=[start], learning_rates=[rate])(rows, 4, 0).labels
        for start in ("cold", "warm")
        for rate in (0.003, 0.03)
    ]
    given = iter([0.5, 0.9, 0.7, 0.6])
    monkeypatch.setattr(module, "generalization", lambda *_: next(given))
    chosen = turtle(**same, starts=["cold", "warm"], learning_rates=[0.003, 0.03])(rows, 4, 0).labels
    np.testing.assert_array_equal(chosen, each[1])
    assert sum(np.array_equal(chosen, other) for other in each) == 1


def test_turtle_needs_rows_for_its_folds():
    with fails(ValueError, "4 rows", "5 folds"):
        turtle(steps=1)(blobs(4, 0.1)[0], 2, 0)


# -- ASD -------------------------------------------------------------------------------------------------------

WATCH = {"epochs": 30, "temperature": 0.1, "learning_rate": 0.003}


def test_transitions_are_within_blobs():
    rows, truth = blobs(240, 0.04)
    swaps = transitions(rows[:40], rows, dropout=0.5, generator=generator(), **WATCH)
    assert torch.equal(swaps, swaps.T)
    assert not swaps.diagonal().any()
    alike = torch.from_numpy(truth[:40, None] == truth[:40])
    assert swaps[alike].float().mean() > 5 * swaps[~alike].float().mean()


def test_one_epoch_has_no_transitions():
    rows, _ = blobs(60, 0.1)
    assert not transitions(rows[:10], rows, dropout=0.5, generator=generator(), **WATCH | {"epochs": 1}).any()
