"""Real vectors without a download: patches of the two photographs that scikit-learn brings."""

import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d

#: Of patches less their mean: at this similarity some have no neighbour, some a few, many hundreds.
THRESHOLD = 0.97


def photo_patches(n):
    """`n` patches of 8 x 8 pixels less their mean, float16 [n, 192], every hundredth row a copy of another."""
    half = n // 2
    parts = [
        extract_patches_2d(image, (8, 8), max_patches=half, random_state=seed).reshape(half, -1)
        for seed, image in enumerate(load_sample_images().images)
    ]
    rows = np.concatenate(parts).astype(np.float32)
    rows -= rows.mean(axis=0)
    rows = rows[np.random.default_rng(0).permutation(n)]
    rows[::100] = rows[50]  # a set of equal rows over all shards, far more than k_max
    rows[7::200] = rows[8::200]
    return rows.astype(np.float16)
