"""Head labels that are noisy copies of one clustering, and what they have in common with a labelling."""

import numpy as np

from icce_ray.core.metrics import nmi


def noisy_heads(n, n_heads, k, *, seed=0, flip=0.2):
    """(labels int32[n, n_heads], truth int64[n]): each head names the k classes its own way; a share is random."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    heads = [np.where(rng.random(n) < flip, rng.integers(0, k, n), rng.permutation(k)[truth]) for _ in range(n_heads)]
    return np.stack(heads, axis=1).astype(np.int32), truth


def anmi(tables):
    """Mean NMI of one labelling with the heads, from a contingency table of each (paper eq. 7)."""
    return float(np.mean([nmi(table) for table in tables]))
