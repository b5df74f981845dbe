"""What every rival owes as a `Fit`, on blobs that are far apart."""

import numpy as np
import pytest
import torch

from icce_ray.core.metrics import accuracy
from jobs.paper.baselines.asd import asd
from jobs.paper.baselines.classical import (
    kmeans_ensemble,
    mixture,
    mixture_ensemble,
    spectral,
    spherical_kmeans,
    ward,
)
from jobs.paper.baselines.kmeans import kmeans
from jobs.paper.baselines.scan import scan
from jobs.paper.baselines.temi import temi
from jobs.paper.baselines.turtle import turtle
from tests.failures import fails

RIVALS = {
    "kmeans": kmeans(),
    "spherical_kmeans": spherical_kmeans(),
    "ward": ward(),
    "spectral": spectral(),
    "mixture": mixture(components=8, starts=2),
    "mixture_ensemble": mixture_ensemble(members=4),
    "kmeans_ensemble": kmeans_ensemble(members=4),
    "scan": scan(heads=4, neighbors=5, steps=100, batch_size=128, self_label_steps=40),
    "turtle": turtle(steps=120, batch_size=128, starts=["warm"], learning_rates=[0.01]),
    "temi": temi(neighbors=15),
    "asd": asd(epochs=30, steps=100, batch_size=128, per_cluster=15),
}
#: These have no rule for new rows, which follow their nearest: a row fitted may then change sides.
WITHOUT_RULE = {"ward", "spectral", "mixture_ensemble", "kmeans_ensemble"}


def blobs(n: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Rows around 4 centres of length one in 64 dimensions, in random order, and their centres' numbers."""
    centres = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(7))).Q[:4]
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(n)[torch.randperm(n, generator=generator)] % 4
    return centres[truth] + noise * torch.randn(n, 64, generator=generator), truth.numpy()


@pytest.fixture(params=RIVALS)
def fit(request):
    return RIVALS[request.param]


def test_separate_blobs_are_found_and_new_rows_of_them(fit):
    rows, truth = blobs(240, 0.04)
    new, of = blobs(80, 0.04, seed=1)
    found = fit(rows, 4, 0)
    assert accuracy(found.labels, truth) == 1.0
    assert accuracy(np.concatenate([found.labels, found.predict(new)]), np.concatenate([truth, of])) == 1.0


@pytest.mark.slow(4)
def test_without_blobs_nothing_is_found(fit):
    rows, truth = blobs(240, 100.0)
    assert accuracy(fit(rows, 4, 0).labels, truth) < 0.45


@pytest.mark.slow(4)
@pytest.mark.parametrize("name", sorted(set(RIVALS) - WITHOUT_RULE))
def test_labels_are_int32_and_the_prediction_of_the_rows_fitted(name):
    rows, _ = blobs(200, 0.25)
    found = RIVALS[name](rows, 4, 0)
    assert found.labels.dtype == np.int32
    assert set(found.labels) <= set(range(4))
    np.testing.assert_array_equal(found.predict(rows), found.labels)
    np.testing.assert_array_equal(found.predict(rows[:3]), found.labels[:3])


@pytest.mark.slow(4)
@pytest.mark.parametrize("name", RIVALS)
def test_a_seed_gives_the_same_labels_and_another_seed_others(name):
    rows, _ = blobs(240, 0.25)
    first, again, other = (RIVALS[name](rows, 4, seed).labels for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert name == "ward" or not np.array_equal(first, other)  # Ward draws nothing


@pytest.mark.slow(4)
def test_the_global_generator_changes_nothing_and_is_not_touched(fit):
    rows, _ = blobs(120, 0.25)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(rows, 4, 0).labels
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, fit(rows, 4, 0).labels)


@pytest.mark.parametrize("n_clusters", [0, 9])
def test_more_clusters_than_rows_are_refused(fit, n_clusters):
    with fails(ValueError, f"n_clusters = {n_clusters}", "8 rows"):
        fit(blobs(8, 0.05)[0], n_clusters, 0)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_features_without_a_direction_are_refused(fit, value):
    with fails(ValueError, "zero"):
        fit(torch.full((20, 4), value), 2, 0)


def test_one_cluster_takes_all_of_few_rows(fit):
    assert set(fit(blobs(24, 0.05)[0], 1, 0).labels) == {0}
