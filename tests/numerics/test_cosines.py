"""Cosines whose gradient is written out, against normalising and multiplying under autograd."""

import pytest
import torch
import torch.nn.functional as F

from icce_ray.core.heads import cosines

HEADS, ROWS, DIM, K = 3, 40, 12, 7


def inputs(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    rows = scale * torch.randn(HEADS, ROWS, DIM, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(HEADS, K, DIM, generator=generator, dtype=torch.float64)
    upstream = torch.randn(HEADS, ROWS, K, generator=generator, dtype=torch.float64)
    return rows.to(dtype).requires_grad_(), prototypes.float().to(dtype).requires_grad_(), upstream


def normalised(rows, prototypes, temperature):
    return F.normalize(rows, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2) / temperature


def with_gradients(function, rows, prototypes, upstream, temperature):
    found = function(rows, prototypes, temperature)
    return found, *torch.autograd.grad(found, (rows, prototypes), upstream.to(found.dtype))


def ours(rows, prototypes, temperature):
    return cosines(rows, prototypes, temperature=temperature)


def test_the_gradient_is_that_of_finite_differences():
    rows, prototypes, _ = inputs()

    def few(x, p):
        return cosines(x[:, :5], p, temperature=0.1)

    assert torch.autograd.gradcheck(few, (rows, prototypes))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_float32_is_as_near_to_float64_as_normalising_is(temperature, scale):
    exact = with_gradients(normalised, *inputs(scale=scale), temperature)
    single = inputs(torch.float32, scale)
    plain = with_gradients(normalised, *single, temperature)
    found = with_gradients(ours, *single, temperature)
    for mine, theirs, truth in zip(found, plain, exact, strict=True):
        assert mine.dtype == torch.float32
        error, usual = ((one.double() - truth).norm() / truth.norm() for one in (mine, theirs))
        assert error < max(2 * usual, 2e-7)


def test_bfloat16_rounds_products_and_keeps_the_result_in_float32():
    exact = with_gradients(normalised, *inputs(), 0.1)
    rows, _, upstream = inputs(torch.bfloat16)
    prototypes = inputs(torch.float32)[1]
    found = with_gradients(ours, rows, prototypes, upstream, 0.1)
    assert [one.dtype for one in found] == [torch.float32, torch.bfloat16, torch.float32]
    for one, truth in zip(found, exact, strict=True):
        assert 0 < (one.double() - truth).norm() / truth.norm() < 0.01


def test_a_row_of_zeros_has_cosines_of_zero_and_a_finite_gradient():
    rows, prototypes, upstream = inputs(torch.float32)
    zeros = rows.detach().clone()
    zeros[:, 0] = 0
    found = with_gradients(ours, zeros.requires_grad_(), prototypes, upstream, 0.1)
    assert (found[0][:, 0] == 0).all()
    assert all(one.isfinite().all() for one in found)
