"""Products in bfloat16, and passes fused by torch.compile, against plain float32."""

from functools import partial

import pytest
import torch
from parallel_cases import RECIPE, build, losses

from icce_ray.core.heads import HeadBank, head_shapes, initialise


def test_bfloat16_is_for_products_only():
    """Two to three digits in the logits, and so in the first losses; all that is kept is float32."""
    exact, coarse = build(), build(precision="bfloat16")
    expected, found = losses(exact, RECIPE.epochs), losses(coarse, RECIPE.epochs)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found[0, 0], expected[0, 0], rtol=0.005, atol=0.0)
    # A pseudo-label that is nearly a tie may turn over, so the cross-entropy is compared as a mean over the heads.
    torch.testing.assert_close(found[0, 1].mean(), expected[0, 1].mean(), rtol=0.01, atol=0.0)
    torch.testing.assert_close(found[-1], expected[-1], rtol=0.1, atol=0.1)
    assert {tensor.dtype for name, tensor in coarse.state().items() if name != "epoch"} == {torch.float32}
    same = coarse.labels(coarse.features) == exact.labels(exact.features)
    assert same.float().mean() > 0.97


def test_logits_in_bfloat16_are_rounded_once_a_product():
    stacked = initialise(range(3), shapes=head_shapes(12, 16, 8, 5), seed=1)
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    chunk = HeadBank(stacked, chunk=3).chunks[0]
    exact, coarse = chunk.logits(x), chunk.logits(x.bfloat16())
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().max() < 3 * 2**-8


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow(40))])
@pytest.mark.filterwarnings(
    "ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning"
)  # dynamo
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # in torch's own fuser
def test_fused_passes_give_the_same_losses(monkeypatch, backend):
    """The default, inductor, runs a C++ compiler for a minute; eager traces the same graphs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compare_fused()


SWITCHES = [{"smoothing_neighbors": 3}, {"teacher": "softmax"}, {"ce_weight": 0.0}, {"sinkhorn_iterations": 1}]
SWITCHES += [{"cluster_prior": "estimated"}, {"precision": "bfloat16"}]


@pytest.mark.parametrize("switches", SWITCHES)
def test_passes_as_they_are_fused_give_the_same_losses_with_every_switch(monkeypatch, switches):
    """Compiled code recomputes the teacher's probabilities, where plain code holds them; rounded alike in bfloat16."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compare_fused(**switches)


def compare_fused(**switches):
    plain, fused = (build(chunk=RECIPE.heads, compiled=compiled, **switches) for compiled in (False, True))
    torch.testing.assert_close(losses(fused, 3), losses(plain, 3), rtol=1e-5, atol=1e-6)
    assert torch.equal(fused.labels(fused.features), plain.labels(plain.features))


def test_compiled_passes_choose_no_kernel_by_its_time(monkeypatch):
    """Else a restart might sum in another order, and would not go on as if it had never stopped."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options) or function)
    build(compiled=True)
    assert len(asked) == 3
    assert all(one["options"] == {"deterministic": True} for one in asked)
