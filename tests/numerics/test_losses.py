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
    """Student log-probabilities and teacher probabilities of both views, and class marginals, float32."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(4, HEADS, B, K, generator=generator)
    marginal = torch.rand(HEADS, K, generator=generator) + 0.1
    student = logits[:2].log_softmax(-1)
    return (*student, *logits[2:].softmax(-1)), marginal / marginal.sum(1, keepdim=True)


def exact(tensor):
    return tensor.double().numpy()


def loop_pmi(log_s, t, marginal, beta, h, i):
    return math.log(sum((math.exp(log_s[h, i, k]) * t[h, i, k]) ** beta / marginal[h, k] for k in range(K)))


def test_pair_weight_is_the_sum_over_heads_and_clusters():
    (_, _, t_x, t_n), _ = random_views()
    x, n = exact(t_x), exact(t_n)
    expected = [sum(x[h, i, k] * n[h, i, k] for h in range(HEADS) for k in range(K)) for i in range(B)]
    assert losses.pair_weight(t_x, t_n).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.6, 1.0])
def test_pmi_and_temi_loss(beta):
    views, marginal = random_views(1)
    weight = losses.pair_weight(*views[2:]) / HEADS
    s_x, s_n, t_x, t_n = map(exact, views)
    m, w = exact(marginal), exact(weight)
    expected = [[loop_pmi(s_x, t_n, m, beta, h, i) for i in range(B)] for h in range(HEADS)]
    np.testing.assert_allclose(losses.pmi(views[0], views[3], marginal, beta), expected, rtol=1e-5, atol=1e-6)
    loss = [
        sum(-0.5 * w[i] * (loop_pmi(s_x, t_n, m, beta, h, i) + loop_pmi(s_n, t_x, m, beta, h, i)) / B for i in range(B))
        for h in range(HEADS)
    ]
    found = losses.temi_loss(views[:2], views[2:], marginal=marginal, weight=weight, beta=beta)
    np.testing.assert_allclose(found, loss, rtol=1e-5, atol=1e-6)


def test_cross_entropy_takes_the_other_views_label():
    views, _ = random_views(2)
    s_x, s_n, t_x, t_n = map(exact, views)
    expected = [
        sum(-0.5 * (s_x[h, i, np.argmax(t_n[h, i])] + s_n[h, i, np.argmax(t_x[h, i])]) / B for i in range(B))
        for h in range(HEADS)
    ]
    np.testing.assert_allclose(losses.cross_entropy_loss(views[:2], views[2:]), expected, rtol=1e-6)


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


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_sinkhorn(iterations):
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
@pytest.mark.parametrize("strength", [None, 0.3, 0.9, 1.0])
def test_rows_sum_to_one_at_any_temperature(scale, strength):
    """A row far below the others, as a low temperature makes it, must not underflow to nothing. None: balanced."""
    scores = scale * torch.randn(2, 30, K, generator=torch.Generator().manual_seed(5))
    scores[:, 0] -= 3 * scale
    if strength is None:
        found = sinkhorn(scores, iterations=3)
    else:
        scores[:, :, 3] -= 100 * scale  # a cluster that no image leans to
        even = torch.full((2, K), 1 / K)
        (found,), _ = unbalanced_sinkhorn([scores], [even], SINGLE_PROCESS, iterations=3, strength=strength)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 30))
    assert (found >= 0).all()


def test_the_floor_of_a_prior():
    found = floored(torch.tensor([[0.97, 0.03, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.97, 0.03, 0.02, 0.02, 0.02]]) / 1.06)


@pytest.mark.parametrize("scale", [0.0, 1e2, 1e4])
def test_extreme_logits_keep_losses_and_gradients_finite(scale):
    generator = torch.Generator().manual_seed(6)
    logits = (scale * torch.randn(2, HEADS, B, K, generator=generator)).requires_grad_()
    s_x, s_n = (logits / 0.1).log_softmax(-1)
    t_x = torch.nn.functional.one_hot(torch.arange(HEADS * B).view(HEADS, B) % K, K).float()
    t_n = t_x.roll(1, dims=-1)  # no cluster in common: p_t is exactly zero where p_s is large
    marginal = torch.zeros(HEADS, K)
    marginal[:, 0] = 1.0  # clusters that no image is in
    temi = losses.temi_loss((s_x, s_n), (t_x, t_n), marginal=marginal, weight=torch.ones(B), beta=0.6)
    cross_entropy = losses.cross_entropy_loss((s_x, s_n), (t_x, t_n))
    (temi + cross_entropy).sum().backward()
    assert temi.isfinite().all()
    assert cross_entropy.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
