"""What counts as an outlier: a few strange images, even if they are alike among themselves."""

import numpy as np
import torch

from icce_ray.core.outliers import LIMIT, Distances, distances


def test_a_few_strangers_that_are_alike_are_outliers():
    generator = torch.Generator().manual_seed(0)
    usual = torch.eye(16)[:4].repeat(150, 1) + 0.1 * torch.randn(600, 16, generator=generator)
    strange = torch.eye(16)[10] + 0.01 * torch.randn(8, 16, generator=generator)
    features = torch.cat([usual, strange])
    chosen = np.random.default_rng(0).permutation(608)[:300]
    distance = distances(features, features[torch.from_numpy(chosen)], np.isin(np.arange(608), chosen))
    scores = Distances.of(distance[chosen]).scores(distance)
    assert (scores[600:] > LIMIT).all()
    assert (scores[:600] > LIMIT).mean() < 0.02


def test_an_image_is_no_neighbour_of_itself():
    features = torch.eye(3)[[0, 0, 1, 2]]
    found = distances(features, features, np.ones(4, bool))
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert Distances.of(found).scores(found).dtype == np.float32
