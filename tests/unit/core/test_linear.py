"""The grid of linear classifiers against classifiers trained one after another by torch's own SGD."""

import math

import pytest
import torch
from torch import nn

from icce_ray.core.heads import derived_seed
from icce_ray.core.linear import STREAM, GridPoint, LinearGrid, best_point, holdout_rows, self_train
from icce_ray.core.recipe import BOUNDS, GridRecipe
from tests.failures import fails

N, DIM, K = 90, 8, 3
INPUTS = {"cls": [(0, 3)], "ends": [(0, 2), (6, 8)], "all": [(0, DIM)]}
RATES = (0.01, 0.1, 1.0)


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % K
    centres = 2 * torch.randn(K, DIM, generator=generator)
    features = 5 + (centres[labels] + torch.randn(N, DIM, generator=generator)) * torch.linspace(0.1, 10, DIM)
    return features, labels


def grid(iterations=30, features=None, **changes):
    data, labels = problem()
    named = ("learning_rates", "batch_size", "l2", "agreement_power")
    own = {name: changes.pop(name) for name in named if name in changes}
    recipe = GridRecipe(**{"learning_rates": RATES, "batch_size": 20} | own, iterations=iterations)
    settings = {"inputs": INPUTS, "n_classes": K, "seed": 4} | changes
    return LinearGrid(data if features is None else features, labels, recipe=recipe, **settings)


def one_after_another(trained, iterations, l2=0.0, weights=None):
    """{(input, rate): (weight, bias)} on standardised inputs: nn.Linear, CrossEntropyLoss, SGD and a scheduler each."""
    features, labels = problem()
    weights = torch.ones(N) if weights is None else weights / weights.mean()
    x_all = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
    fresh, result = grid(iterations), {}
    for name, columns in trained.columns.items():
        for index, rate in enumerate(RATES):
            layer = nn.Linear(len(columns), K)
            start = fresh.weights[name].view(len(RATES), K, -1)[index]
            with torch.no_grad():
                layer.weight.copy_(start[:, :-1])
                layer.bias.copy_(start[:, -1])
            groups = [{"params": [layer.weight], "weight_decay": l2}, {"params": [layer.bias]}]
            optimizer = torch.optim.SGD(groups, lr=rate * 20 / 256, momentum=0.9)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
            generator = torch.Generator().manual_seed(derived_seed(4, STREAM, 1))
            batches: tuple[torch.Tensor, ...] = ()
            for iteration in range(iterations):
                if iteration % (N // 20) == 0:
                    batches = torch.randperm(N, generator=generator).split(20)
                rows = batches[iteration % (N // 20)]
                optimizer.zero_grad()
                each = nn.functional.cross_entropy(layer(x_all[rows][:, columns]), labels[rows], reduction="none")
                (weights[rows] * each).mean().backward()
                optimizer.step()
                scheduler.step()
            result[name, rate] = (layer.weight.detach(), layer.bias.detach())
    return result


AGREEMENT = 0.2 + 0.8 * torch.arange(N) / N


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, {}),
        ({"agreement": AGREEMENT}, {}),
        ({"l2": 0.1, "agreement_power": 2.0, "agreement": AGREEMENT}, {"l2": 0.1, "weights": AGREEMENT**2}),
    ],
    ids=["plain", "agreement not asked for", "regularised"],
)
def test_the_grid_is_its_classifiers_one_after_another(options, slow):
    trained = grid(**options).fit()
    for (name, rate), (weight, bias) in one_after_another(trained, 30, **slow).items():
        found = trained.weights[name].view(len(RATES), K, -1)[RATES.index(rate)]
        torch.testing.assert_close(found[:, :-1], weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[:, -1], bias, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_folded_classifiers():
    trained = grid().fit()
    features, labels = problem(seed=1)
    points = trained.score(features, labels, block_rows=13)
    assert [(p.input, p.learning_rate) for p in points] == [(name, rate) for name in INPUTS for rate in RATES]
    for point in points:
        classifier = trained.classifier(point)
        p = classifier.probabilities(features[:, trained.columns[point.input]])
        assert point.accuracy == pytest.approx((p.argmax(1) == labels).float().mean().item())
        assert point.loss == pytest.approx(nn.functional.nll_loss(p.log(), labels).item(), rel=1e-4)


def test_one_seed_one_result():
    first, second, other = grid().fit(), grid().fit(), grid(seed=5).fit()
    for name in INPUTS:
        assert torch.equal(first.weights[name], second.weights[name])
        assert not torch.equal(first.weights[name], other.weights[name])


def test_constant_columns_and_half_precision_stay_finite():
    features = problem()[0].half()
    features[:, 1] = 7.0
    trained = grid(features=features).fit()
    assert all(weight.isfinite().all() for weight in trained.weights.values())


def test_progress_is_reported():
    seen = []
    grid(iterations=250).fit(lambda done, total: seen.append((done, total)))
    assert seen[0] == (2, 250)
    assert seen[-1] == (250, 250)
    assert len(seen) == 125


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(89, dtype=torch.int64), "89 labels for 90 features"),
        (torch.full((90,), 3), "labels span [3, 3], outside [0, 3)"),
        (torch.full((90,), -1), "labels span [-1, -1]"),
    ],
)
def test_labels_are_checked(labels, message):
    with fails(ValueError, message):
        LinearGrid(problem()[0], labels, inputs=INPUTS, n_classes=K)


def test_best_point_breaks_ties_by_loss_and_never_takes_a_diverged_one():
    diverged = GridPoint("cls", 9.0, 0.99, math.nan)
    worse, better = GridPoint("cls", 0.1, 0.9, 0.5), GridPoint("all", 0.2, 0.9, 0.4)
    assert best_point([diverged, worse, better]) is better
    assert best_point([GridPoint("cls", 1.0, 0.8, 0.1), worse]) is worse
    with fails(ValueError, "diverged", "lower"):
        best_point([diverged, GridPoint("cls", 1.0, 0.5, math.inf)])


def test_a_rate_that_diverges_leaves_the_others_alone():
    trained = grid(learning_rates=(0.1, 1e38), iterations=60).fit()
    alone = grid(learning_rates=(0.1, 1e-3), iterations=60).fit()
    points = trained.score(*problem())
    assert best_point(points).learning_rate == 0.1
    for name in INPUTS:
        torch.testing.assert_close(trained.weights[name][:K], alone.weights[name][:K])


@pytest.mark.parametrize(("n", "share", "held"), [(10, 0.1, 1), (100, 0.25, 25), (4, 0.01, 1), (2, 0.5, 1)])
def test_holdout_splits_the_rows(n, share, held):
    train, test = holdout_rows(n, share, seed=0)
    assert len(test) == held
    assert torch.cat([train, test]).sort().values.tolist() == list(range(n))
    assert train.tolist() == sorted(train.tolist())
    assert torch.equal(test, holdout_rows(n, share, seed=0)[1])


def test_holdout_must_leave_some():
    with fails(ValueError, "1 images", "holding out 1"):
        holdout_rows(1, 0.1, seed=0)


def test_bfloat16_products_give_the_same_classifiers_but_for_their_rounding():
    whole, rounded = grid(iterations=200).fit(), grid(iterations=200, precision="bfloat16").fit()
    exact, found = whole.score(*problem()), rounded.score(*problem())
    for name in INPUTS:
        error = (rounded.weights[name] - whole.weights[name]).norm() / whole.weights[name].norm()
        assert rounded.weights[name].dtype == torch.float32
        assert 0 < error < 0.02  # products of 8 bits: some 0.004 each
    assert [p.accuracy for p in found] == pytest.approx([p.accuracy for p in exact], abs=2 / N)
    assert best_point(found).loss == pytest.approx(best_point(exact).loss, rel=0.02)


def test_products_in_bfloat16_are_as_wide_as_tensor_cores_load(monkeypatch):
    """Widths of 3, 4 and 8 columns and the bias: no operand may have a row of 4, 5 or 9."""
    product, widths = torch.mm, set()

    def seen(a, b, out):
        widths.add((a.shape[1], b.shape[0]) if out.shape[1] == len(RATES) * K else out.shape[1])
        return product(a, b, out=out)

    trained = grid(iterations=2, precision="bfloat16")
    monkeypatch.setattr(torch, "mm", seen)
    trained.fit()
    assert widths == {(8, 8), 8, (16, 16), 16}
    assert [weight.shape[1] for weight in trained.weights.values()] == [4, 5, 9]


def test_bfloat16_is_regularised_alike():
    options = {"iterations": 200, "l2": 0.1, "agreement_power": 2.0, "agreement": AGREEMENT}
    whole, rounded = grid(**options).fit(), grid(**options, precision="bfloat16").fit()
    for name in INPUTS:
        error = (rounded.weights[name] - whole.weights[name]).norm() / whole.weights[name].norm()
        assert 0 < error < 0.02


def test_the_strongest_regularisation_stays_finite():
    most = {name: BOUNDS[name]["le"] for name in ("l2", "agreement_power")}
    trained = grid(**most, agreement=torch.where(torch.arange(N) < 5, 1.0, 0.02)).fit()
    assert math.isfinite(best_point(trained.score(*problem())).loss)
    assert all(weight.isfinite().all() for weight in trained.weights.values())


def test_disputed_wrong_labels_are_not_learned():
    features, labels = problem()
    wrong = torch.arange(N) % 4 == 1
    taught = torch.where(wrong, (labels + 1) % K, labels)
    agreement = torch.where(wrong, 0.3, 1.0)

    def right(power):
        recipe = GridRecipe(iterations=200, batch_size=20, agreement_power=power, l2=0.01)
        options = {"inputs": {"all": [(0, DIM)]}, "n_classes": K, "seed": 0}
        found = self_train(features, taught, agreement, recipe=recipe, **options).classifier
        return (found.probabilities(features).argmax(1) == labels).float().mean()

    assert right(2.0) > 0.97
    assert right(0.0) < 0.92


def test_sure_predictions_still_learn_in_bfloat16():
    trained = grid(precision="bfloat16")
    logits = torch.tensor([[8.0, 0.0, 0.0] * len(RATES)]).to(torch.bfloat16)
    residual = trained._residual(logits, torch.tensor([0])).float()
    exact = torch.tensor([[8.0, 0.0, 0.0]]).softmax(-1) - torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(residual, exact.repeat(1, len(RATES)), rtol=0.01, atol=0)  # p = 0.9993 would be 1
