"""Losses and Sinkhorn against loops of float64 numbers, and at the extremes of float32."""

import math

import numpy as np
import pytest
import torch

from icce_ray.core import losses
from icce_ray.core.collectives import SINGLE_PROCESS
from icce_ray.core.losses import floored, unbalanced_sinkhorn

HEADS, B, K = 3, 7, 5


def sinkhorn(scores, *, iterations):
    """Of one chunk in one process."""
    return losses.sinkhorn([scores], SINGLE_PROCESS, iterations=iterations)[0]


def random_views(seed=0, scale=3.0):
    """Student logits and teacher targets of both views [heads, 2 B, K], and class marginals, float32."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, HEADS, 2 * B, K, generator=generator)
    marginal = torch.rand(HEADS, K, generator=generator) + 0.1
    return logits[0], logits[1].softmax(-1), marginal / marginal.sum(1, keepdim=True)


def exact(tensor):
    return tensor.double().numpy()


def loop_pmi(log_s, t, marginal, beta, h, i):
    return math.log(sum((math.exp(log_s[h, i, k]) * t[h, i, k]) ** beta / marginal[h, k] for k in range(K)))


def test_pair_weight_is_the_sum_over_heads_and_clusters():
    _, targets, _ = random_views()
    x, n = exact(targets[:, :B]), exact(targets[:, B:])
    expected = [sum(x[h, i, k] * n[h, i, k] for h in range(HEADS) for k in range(K)) for i in range(B)]
    assert losses.pair_weight(targets).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.6, 1.0])
def test_objective(beta):
    """A row learns from the target in the same row: the first B are of x and learn from x', the others from x."""
    scores, targets, marginal = random_views(1)
    weight = losses.pair_weight(targets) / HEADS
    s, t, m, w = exact(scores.log_softmax(-1)), exact(targets), exact(marginal), exact(weight)
    temi = [sum(-0.5 * w[i % B] * loop_pmi(s, t, m, beta, h, i) / B for i in range(2 * B)) for h in range(HEADS)]
    entropy = [sum(-0.5 * s[h, i, np.argmax(t[h, i])] / B for i in range(2 * B)) for h in range(HEADS)]
    given = {"marginal": marginal, "weight": weight, "beta": beta, "shares": (B, HEADS)}
    loss, *parts = losses.objective(scores, targets, ramp=torch.tensor(1.5), **given)
    np.testing.assert_allclose(parts[0], temi, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts[1], entropy, rtol=1e-6)
    assert float(loss) == pytest.approx(np.mean(temi) + 1.5 * np.mean(entropy), rel=1e-5)
    loss, *parts = losses.objective(scores, targets, ramp=None, **given)
    np.testing.assert_allclose(parts[0], temi, rtol=1e-5, atol=1e-6)
    assert not parts[1].any()
    assert float(loss) == pytest.approx(np.mean(temi), rel=1e-5)


@pytest.mark.parametrize("ramp", [None, 0.0, 1.5])
def test_the_gradient_of_the_objective_is_that_of_autograd(ramp):
    scores, targets, marginal = (tensor.double() for tensor in random_views(2))
    weight = torch.rand(B, generator=torch.Generator().manual_seed(3)).double()
    scores.requires_grad_()
    log_p = scores.log_softmax(-1)
    pmi = (0.6 * (log_p + targets.log()) - marginal.log()[:, None]).logsumexp(-1)
    label = targets.argmax(-1, keepdim=True)
    plain = -0.5 * ((weight.repeat(2) * pmi).sum() + (ramp or 0.0) * log_p.gather(-1, label).sum()) / (B * HEADS)
    given = {"marginal": marginal, "weight": weight, "beta": 0.6, "shares": (B, HEADS)}
    loss, *_ = losses.objective(scores, targets, ramp=None if ramp is None else weight.new_tensor(ramp), **given)
    found, expected = (torch.autograd.grad(one, scores)[0] for one in (loss, plain))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_ce_weight_is_a_cosine_ramp_from_zero():
    assert [losses.ce_weight(step, 4, 2.0) for step in range(5)] == pytest.approx(
        [0.0, 1 - math.sqrt(0.5), 1.0, 1 + math.sqrt(0.5), 2.0]
    )


def loop_sinkhorn(scores, iterations):
    """[heads, rows, K] in float64, one head, column and row at a time."""
    result = []
    for head in scores:
        q = np.exp(head - head.max())
        for _ in range(iterations):
            for k in range(q.shape[1]):
                q[:, k] /= q[:, k].sum()
            for i in range(len(q)):
                q[i] /= q[i].sum()
        result.append(q)
    return np.stack(result)


def by_potentials(scores, *, iterations):
    columns, rows = losses.sinkhorn_potentials(scores, iterations=iterations)
    return (scores - columns - rows).exp()


@pytest.mark.parametrize("sinkhorn", [sinkhorn, by_potentials])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_sinkhorn(sinkhorn, iterations):
    scores = 4 * torch.randn(HEADS, 20, K, generator=torch.Generator().manual_seed(3))
    kept = scores.clone()
    found = sinkhorn(scores, iterations=iterations)
    assert torch.equal(scores, kept)
    np.testing.assert_allclose(found, loop_sinkhorn(exact(scores), iterations), rtol=2e-5, atol=1e-8)
    torch.testing.assert_close(found.sum(-1), torch.ones(HEADS, 20))


def loop_unbalanced(scores, prior, strength, iterations):
    """[heads, rows, K] in float64, one head, column and row at a time, from the softmax each round."""
    result, plain = [], []
    for head, target in zip(scores, prior, strict=True):
        n, k = head.shape
        start = np.exp(head - head.max(1, keepdims=True))
        for i in range(n):
            start[i] /= start[i].sum()
        row, column = np.ones(n), np.ones(k)
        for _ in range(iterations):
            for j in range(k):
                column[j] = (target[j] / (sum(row[i] * start[i, j] for i in range(n)) / sum(row @ start))) ** strength
            for i in range(n):
                row[i] = 1 / sum(start[i, j] * column[j] for j in range(k))
        result.append(row[:, None] * start * column)
        plain.append(start.sum(0))
    return np.stack(result), np.stack(plain)


def some_prior(generator):
    prior = torch.rand(HEADS, K, generator=generator) + 0.05
    return prior / prior.sum(1, keepdim=True)


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_unbalanced_sinkhorn(iterations, strength):
    generator = torch.Generator().manual_seed(8)
    scores = 4 * torch.randn(HEADS, 20, K, generator=generator)
    kept, prior = scores.clone(), some_prior(generator)
    (found,), (plain,) = unbalanced_sinkhorn(
        [scores], [prior], SINGLE_PROCESS, iterations=iterations, strength=strength
    )
    assert torch.equal(scores, kept)
    exactly, softmax = loop_unbalanced(exact(scores), exact(prior), strength, iterations)
    np.testing.assert_allclose(found, exactly, rtol=3e-5, atol=1e-8)
    np.testing.assert_allclose(plain, softmax, rtol=1e-5)
    if strength == 0:
        torch.testing.assert_close(found, scores.softmax(-1))


def test_the_constraint_at_full_strength_and_leaning_below():
    """With many rounds full strength is the Sinkhorn of the paper, with any masses; half of it goes half-way."""
    generator = torch.Generator().manual_seed(9)
    scores = torch.randn(HEADS, 400, K, generator=generator) + torch.tensor([5.0, 0, 0, 0, -5])
    prior = some_prior(generator)

    def masses(strength, target):
        (found,), _ = unbalanced_sinkhorn([scores], [target], SINGLE_PROCESS, iterations=300, strength=strength)
        return found, found.mean(1)

    torch.testing.assert_close(masses(1.0, prior)[1], prior, rtol=1e-4, atol=0)
    even = torch.full((HEADS, K), 1 / K)
    torch.testing.assert_close(masses(1.0, even)[0], sinkhorn(scores, iterations=300), rtol=1e-3, atol=1e-6)
    largest = [float(masses(strength, even)[1].max()) for strength in (0.0, 0.5, 0.8, 1.0)]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] > 0.8
    assert 0.25 < largest[2] < 0.75


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e30])
@pytest.mark.parametrize("strength", [None, "potentials", 0.3, 0.9, 1.0])
def test_rows_sum_to_one_at_any_temperature(scale, strength):
    """A row far below the others, as a low temperature makes it, must not underflow to nothing. None: balanced."""
    scores = scale * torch.randn(2, 30, K, generator=torch.Generator().manual_seed(5))
    scores[:, 0] -= 3 * scale
    if strength is None or strength == "potentials":
        found = (by_potentials if strength else sinkhorn)(scores, iterations=3)
    else:
        scores[:, :, 3] -= 100 * scale  # a cluster that no image leans to
        even = torch.full((2, K), 1 / K)
        (found,), _ = unbalanced_sinkhorn([scores], [even], SINGLE_PROCESS, iterations=3, strength=strength)
    # A logarithm of a few hundred, of which the potentials are, has five digits behind the point.
    tolerance = 1e-4 if strength == "potentials" else 5e-6
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 30), rtol=tolerance, atol=0.0)
    assert (found >= 0).all()


def test_the_floor_of_a_prior():
    found = floored(torch.tensor([[0.97, 0.03, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.97, 0.03, 0.02, 0.02, 0.02]]) / 1.06)


@pytest.mark.parametrize("scale", [0.0, 1e2, 1e4])
def test_extreme_logits_keep_losses_and_gradients_finite(scale):
    generator = torch.Generator().manual_seed(6)
    logits = (scale * torch.randn(HEADS, 2 * B, K, generator=generator)).requires_grad_()
    targets = torch.nn.functional.one_hot(torch.arange(HEADS * B * 2).view(HEADS, 2 * B) % K, K).float()
    marginal = torch.zeros(HEADS, K)
    marginal[:, 0] = 1.0  # clusters that no image is in
    loss, temi, cross_entropy = losses.objective(
        logits / 0.1,
        targets,
        marginal=marginal,
        weight=torch.ones(B),
        beta=0.6,
        ramp=torch.ones(()),
        shares=(B, HEADS),
    )
    loss.backward()
    assert temi.isfinite().all()
    assert cross_entropy.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
