"""Batched heads against a loop over modules in float64: losses, gradients, updates, for every switch and chunk."""

import pytest
import torch
from reference_heads import ReferenceTrainer

from icce_ray.core.heads import PARAMETERS, HeadBank, derived_seed, head_shapes, heads_per_chunk, initialise
from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Execution, Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer

N, DIM, K, HEADS = 48, 10, 4, 5
RELATIVE = 1e-5


def problem(**switches):
    """Small clustered features, their neighbours and a recipe of few epochs, so that the CE ramp rises at once."""
    generator = torch.Generator().manual_seed(7)
    centres = 2 * torch.randn(K, DIM, generator=generator)
    features = centres.repeat(N // K, 1) + torch.randn(N, DIM, generator=generator)
    small = {"heads": HEADS, "hidden": 12, "bottleneck": 8, "epochs": 2, "batch_size": 16, "warmup_epochs": 1}
    recipe = Recipe(**small, learning_rate=0.02, teacher_momentum=0.9, **switches)
    return features, mine(features, Limits(0.5, 3, 12)), recipe


def build(chunk, **switches):
    features, neighbors, recipe = problem(**switches)
    trainer = HeadTrainer(features, neighbors, n_clusters=K, recipe=recipe, seed=3, execution=Execution(chunk=chunk))
    generator = torch.Generator().manual_seed(9)
    moved = {}  # away from the start, where all heads are nearly uniform and the class marginal hardly matters
    for name, tensor in trainer.networks.student.stacked().items():
        moved[name] = tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
    state = trainer.state()
    trainer.restore(state | {f"{who}.{name}": t for who in ("student", "teacher") for name, t in moved.items()})
    return trainer


def batches(trainer, steps=3):
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        anchors = torch.randperm(N, generator=generator)[: trainer.batch_size]
        yield anchors, trainer.draw(anchors, generator), step


def spied_steps(monkeypatch, trainer):
    """Losses and gradients (by name, [H, ...]) of each step."""
    networks, gradients = trainer.networks, {}
    update = networks.update

    def spy(learning_rate, step):
        for name in PARAMETERS:
            gradients[name] = torch.cat([chunk.parameters[name].grad for chunk in networks.student])
        update(learning_rate, step)

    monkeypatch.setattr(networks, "update", spy)
    for batch in batches(trainer):
        yield trainer.step(*batch), gradients


def reference_steps(trainer):
    """The same of the loop over modules, float64, and the reference at the end."""
    reference = ReferenceTrainer(
        trainer.features,
        trainer.networks.student.stacked(),
        trainer.recipe,
        n_clusters=K,
        total_steps=trainer.recipe.epochs * trainer.steps_per_epoch,
        learning_rate=trainer.learning_rate,
    )
    steps = [
        (reference.step(*batch), {name: torch.stack([g[name] for g in reference.gradients]) for name in PARAMETERS})
        for batch in batches(trainer)
    ]
    return steps, reference


def assert_near(found, exact, relative=RELATIVE):
    """Every head: the norm of the difference against the norm of the exact value."""
    error = (found.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert (error <= relative).all(), error


def above_rounding(gradients):
    """Where no step has a gradient near zero, whose sign float32 cannot tell: Adam would make a whole step of it."""
    return torch.stack([one.abs() > 1e-5 * one.abs().mean() for one in gradients]).all(0)


def stack(heads):
    return {name: torch.stack([head.named()[name].detach() for head in heads]) for name in PARAMETERS}


@pytest.mark.parametrize("teacher", ["sinkhorn", "softmax"])
@pytest.mark.parametrize("input_norm", ["batchnorm", "standardize"])
@pytest.mark.parametrize("ce_weight", [0.0, 1.5])
@pytest.mark.parametrize("smoothing", [1, 3])
def test_losses_gradients_and_updates_of_three_steps(monkeypatch, teacher, input_norm, ce_weight, smoothing):
    switches = {"teacher": teacher, "input_norm": input_norm, "ce_weight": ce_weight, "smoothing_neighbors": smoothing}
    assert_as_the_reference(monkeypatch, switches)


@pytest.mark.parametrize("cluster_prior", ["uniform", "estimated"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_steps_with_a_prior(monkeypatch, cluster_prior, strength):
    switches = {"cluster_prior": cluster_prior, "prior_strength": strength, "prior_momentum": 0.7}
    assert_as_the_reference(monkeypatch, switches | {"smoothing_neighbors": 2})


def assert_as_the_reference(monkeypatch, switches):
    """Three steps, in chunks of any size."""
    start = build(HEADS, **switches).networks.student.stacked()
    expected, reference = reference_steps(build(HEADS, **switches))
    for chunk in (1, 3, HEADS):
        trainer = build(chunk, **switches)
        for (losses, gradients), (exact_losses, exact_gradients) in zip(
            spied_steps(monkeypatch, trainer), expected, strict=True
        ):
            for found, exact in zip(losses, exact_losses, strict=True):
                torch.testing.assert_close(found.double(), exact, rtol=RELATIVE, atol=1e-7)
            for name in PARAMETERS:
                assert_near(gradients[name], exact_gradients[name])
        assert_near(trainer.networks.marginal, torch.stack(reference.marginals))
        if trainer.recipe.cluster_prior == "estimated":
            assert_near(trainer.networks.prior, torch.stack(reference.priors))
            assert (reference.priors[0] - 1 / K).abs().max() > 0.02  # it moved
        students, teachers = trainer.networks.student.stacked(), trainer.networks.teacher.stacked()
        for found, exact in ((students, stack(reference.students)), (teachers, stack(reference.teachers))):
            for name in PARAMETERS:
                # The update is what must agree; it is far smaller than the parameter, and Adam divides by its size.
                certain = above_rounding([gradients[name] for _, gradients in expected])
                assert certain.float().mean() > 0.995
                moved, exactly = found[name] - start[name], exact[name] - start[name]
                assert_near(moved * certain, exactly * certain, relative=1e-4)


def test_logits_are_cosines_of_each_head():
    stacked = initialise(range(4), shapes=head_shapes(DIM, 12, 8, K), seed=1)
    x = torch.randn(9, DIM, generator=torch.Generator().manual_seed(1))
    logits = HeadBank(stacked, chunk=4).chunks[0].logits(x)
    assert logits.shape == (4, 9, K)
    assert logits.abs().max() <= 1 + 1e-6
    labels = HeadBank(stacked, chunk=3).labels(x)
    assert labels.dtype == torch.int32
    assert torch.equal(labels, logits.argmax(-1).T.int())


def test_a_head_starts_the_same_in_any_company():
    shapes = head_shapes(DIM, 12, 8, K)
    all_heads = initialise(range(6), shapes=shapes, seed=2)
    some = initialise([4, 1], shapes=shapes, seed=2)
    for name, expected in shapes.items():
        assert all_heads[name].shape == (6, *expected)
        assert torch.equal(some[name], all_heads[name][[4, 1]])
    assert not all_heads["hidden.bias"].any()
    assert all_heads["hidden.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(
        initialise([0], shapes=shapes, seed=3)["prototypes"], initialise([0], shapes=shapes, seed=2)["prototypes"]
    )


def test_seeds_of_different_purposes_differ():
    seeds = [derived_seed(*parts) for parts in [(0,), (0, 0), (0, 1), (0, 1, 0), (0, 1, 1), (1, 0), (1,), (0, 2, 0)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_chunks_fit_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert heads_per_chunk(cpu, n_heads=50, rows=2048, widest=512) == 2
    assert heads_per_chunk(cpu, n_heads=50, rows=10**6, widest=512) == 1
    assert heads_per_chunk(cpu, n_heads=3, rows=8, widest=8) == 3
    assert heads_per_chunk(gpu, n_heads=50, rows=2048, widest=1000) == 50
