"""The map: neighbours stay neighbours, a seed fixes it for any number of threads, and odd inputs have places too."""

import numpy as np
import pytest
import torch

from icce_ray.core.layout import NEAREST, STEPS, lay_out


def blobs(classes, each, dim=16, spread=0.1):
    """Rows around as many directions, float16, one class after the other."""
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(classes, dim)), each, axis=0)
    return torch.tensor(centres + spread * random.normal(size=centres.shape)).half()


@pytest.fixture(scope="module")
def three():
    return lay_out(blobs(3, 60), seed=0, threads=1)


def test_classes_lie_apart(three):
    """The nearest of each image on the map are of its class."""
    distances = np.linalg.norm(three.places[:, None] - three.places, axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1:11]
    assert (nearest // 60 == np.arange(180)[:, None] // 60).all()
    assert np.abs(three.places.mean(0)).max() < 1e-4


def test_neighbors_are_the_nearest_by_cosine(three):
    unit = torch.nn.functional.normalize(blobs(3, 60).double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    found = cosines.topk(NEAREST).values.numpy()
    assert three.neighbor_ids.shape == (180, NEAREST)
    np.testing.assert_allclose(three.similarities, found, atol=1e-6)
    np.testing.assert_allclose(cosines.gather(1, torch.from_numpy(three.neighbor_ids)), found, atol=1e-6)


def test_a_seed_fixes_the_map(three):
    steps = []
    assert np.array_equal(three.places, lay_out(blobs(3, 60), seed=0, threads=1, on_progress=steps.append).places)
    assert steps == [*range(25, sum(STEPS.values()) + 1, 25)]


@pytest.mark.slow(10)
def test_any_number_of_threads_gives_the_same_map(three):
    """Steps of a few threads are short: they wait for each other more than they work, above all on a busy machine."""
    assert np.array_equal(three.places, lay_out(blobs(3, 60), seed=0, threads=2).places)


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 40])
@pytest.mark.parametrize("equal", [True, False])
def test_few_images_and_equal_ones_have_places(rows, equal):
    features = torch.ones(rows, 8).half() if equal else blobs(1, rows, 8)
    found = lay_out(features, seed=0, threads=1)
    assert found.places.shape == (rows, 2)
    assert np.isfinite(found.places).all()
    assert found.neighbor_ids.shape == (rows, max(0, min(rows - 1, NEAREST)))
    assert equal or len(np.unique(found.places, axis=0)) == rows


def test_features_of_one_number_have_places():
    assert np.isfinite(lay_out(torch.linspace(0.1, 1, 30)[:, None].half(), seed=0, threads=1).places).all()
