"""The training loop: seeds, chunks, restarts to the bit, schedules, labels, errors."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from icce_ray.core.neighbors import Limits
from icce_ray.core.recipe import Execution, Recipe, product_precision
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer, feature_statistics
from tests.failures import fails

N, DIM, K = 60, 6, 3
RECIPE = Recipe(
    heads=4, hidden=10, bottleneck=6, epochs=6, batch_size=16, warmup_epochs=2, learning_rate=0.02, teacher_momentum=0.9
)


def blobs(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(K, DIM, generator=generator)
    return (centres.repeat(N // K, 1) + 0.5 * torch.randn(N, DIM, generator=generator)).to(dtype)


def build(seed=0, chunk=None, features=None, **changes):
    features = blobs() if features is None else features
    neighbors = mine(features, Limits(0.5, 3, 20))
    recipe = dataclasses.replace(RECIPE, **changes)
    return HeadTrainer(features, neighbors, n_clusters=K, recipe=recipe, seed=seed, execution=Execution(chunk=chunk))


def run(trainer, epochs):
    return [trainer.run_epoch() for _ in range(epochs)]


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_seed_one_result():
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    for trainer in (first, second, other):
        run(trainer, 3)
    assert identical(first.state(), second.state())
    assert not torch.equal(first.networks.marginal, other.networks.marginal)


class ReadBack(TorchDispatchMode):
    """Notes every operation that must wait for the device: numbers for Python, results whose size the data decide."""

    WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"})

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in self.WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("teacher", ["sinkhorn", "softmax"])
@pytest.mark.parametrize("smoothing", [1, 3])
def test_an_epoch_reads_nothing_back_from_the_device(teacher, smoothing):
    trainer = build(teacher=teacher, smoothing_neighbors=smoothing, chunk=3)
    with ReadBack() as seen:
        losses = trainer.run_epoch()
    assert seen.found == []
    with ReadBack() as seen:
        float(losses.temi.sum())
        losses.temi[losses.temi < 0]
    assert seen.found == ["_local_scalar_dense", "index"]  # so it does see them


def test_training_finds_separated_blobs():
    trainer = build()
    losses = run(trainer, 6)
    assert losses[-1].temi.shape == losses[-1].cross_entropy.shape == (4,)
    assert (losses[-1].temi < losses[0].temi).all()
    labels = trainer.labels(blobs()).view(N // K, K, -1)
    assert (labels == labels[:1]).float().mean() > 0.9  # images of one blob share a label in every head


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_nothing_but_rounding(chunk):
    whole, parts = build(chunk=4), build(chunk=chunk)
    for one, other in zip(run(whole, 3), run(parts, 3), strict=True):
        torch.testing.assert_close(one.temi, other.temi, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.cross_entropy, other.cross_entropy, rtol=1e-4, atol=1e-5)
    assert torch.equal(whole.labels(blobs()), parts.labels(blobs()))


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_restored_trainer_goes_on_to_the_bit(stop):
    unbroken = build()
    run(unbroken, stop)
    saved = {name: tensor.clone() for name, tensor in unbroken.state().items()}
    expected = run(unbroken, 2)
    for _ in range(2):  # twice from one state: going on must not write into it
        restored = build()
        restored.restore(saved)
        assert identical(restored.state(), saved)
        assert all(torch.equal(a.temi, b.temi) for a, b in zip(run(restored, 2), expected, strict=True))
        assert identical(restored.state(), unbroken.state())


def test_a_state_does_not_depend_on_the_chunks():
    trainer = build(chunk=3)
    run(trainer, 2)
    other = build(chunk=1)
    other.restore(trainer.state())
    assert identical(other.state(), trainer.state())


def test_the_learning_rate_warms_up_and_stays():
    trainer = build()  # 3 steps an epoch, 2 epochs of warm-up
    top = 0.02 * 16 / 256
    assert [trainer.learning_rate(step) / top for step in (0, 2, 5, 6, 100)] == pytest.approx([1 / 6, 0.5, 1, 1, 1])
    assert build(warmup_epochs=0).learning_rate(0) == pytest.approx(top)


def test_a_batch_is_never_larger_than_the_set():
    trainer = build(batch_size=1000)
    assert (trainer.batch_size, trainer.steps_per_epoch) == (N, 1)
    assert trainer.learning_rate(10**6) == pytest.approx(0.02 * N / 256)


def test_labels_do_not_depend_on_the_block():
    trainer = build(chunk=3)
    run(trainer, 2)
    whole = trainer.labels(blobs())
    assert whole.shape == (N, 4)
    assert whole.dtype == torch.int32
    assert torch.equal(whole, torch.cat([trainer.labels(block) for block in blobs().split(7)]))


def test_half_precision_features_train():
    trainer = build(features=blobs(dtype=torch.float16))
    assert run(trainer, 1)[0].temi.isfinite().all()


def test_constant_features_stay_finite():
    features = blobs()
    features[:, 2] = 4.0
    trainer = build(features=features)
    run(trainer, 2)
    assert all(tensor.isfinite().all() for tensor in trainer.state().values())


def test_draws_are_uniform_over_the_neighbours():
    trainer = build(smoothing_neighbors=2)
    generator = torch.Generator().manual_seed(0)
    anchors = torch.full((3000,), 5)
    drawn = trainer.draw(anchors, generator)
    assert drawn.shape == (2, 3000)
    lists = trainer.neighbors
    allowed = lists.ids[lists.offsets[5] : lists.offsets[6]]
    shares = (drawn.reshape(-1, 1) == allowed).float().mean(0)
    assert shares.sum() == pytest.approx(1.0)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / len(allowed)), rtol=0.3, atol=0)


def test_a_draw_never_leaves_the_list(monkeypatch):
    """Even if u * count rounds up to count, as it can for lists that float32 cannot count."""
    trainer = build()
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.ones(*size))
    drawn = trainer.draw(torch.arange(N), torch.Generator())
    assert torch.equal(drawn[0], trainer.neighbors.ids[trainer.neighbors.offsets[1:] - 1])


def test_feature_statistics_are_those_of_all_images():
    features = 1e3 + torch.randn(101, 5, generator=torch.Generator().manual_seed(0))
    mean, std = feature_statistics(features, block_rows=7)
    torch.testing.assert_close(mean, features.double().mean(0).float())
    torch.testing.assert_close(std, (features.double().var(0, correction=0) + 1e-5).sqrt().float())


def test_neighbours_must_fit_the_features():
    lists = mine(blobs(), Limits(0.5, 3, 20))
    with fails(ValueError, "60 neighbour lists", "59 features"):
        HeadTrainer(blobs()[:-1], lists, n_clusters=K, recipe=RECIPE, seed=0)
    lists.offsets[1] = 0
    with fails(ValueError, "no neighbour", "k_min >= 1"):
        HeadTrainer(blobs(), lists, n_clusters=K, recipe=RECIPE, seed=0)


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float32", "cuda", "float32"),
    ],
)
def test_auto_is_bfloat16_on_cuda_only(precision, device, dtype):
    assert product_precision(precision, device) == dtype
