"""A feature matrix that you have, without Ray: three lines, as with every clusterer of scikit-learn.

python jobs/examples/features.py
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import icce_ray


def main() -> None:
    """Cluster the pixels of 1,000 digits, and label the others."""
    digits: Any = load_digits()
    features = digits.data - 8  # [1797, 64]; yours: np.load("features.npy")

    # Smaller than the paper's settings, as this set is. Yours may need no more than ICCE(n_clusters=20).
    icce = icce_ray.ICCE(
        n_clusters=10,
        threshold=0.65,
        k_min=15,
        heads=8,
        hidden=128,
        bottleneck=64,
        epochs=30,
        warmup_epochs=3,
        batch_size=256,
        learning_rate=3e-3,
        teacher_momentum=0.99,
        iterations=400,
    )
    labels = icce.fit_predict(features[:1000])
    others = icce.predict(features[1000:])

    print(f"images in each class: {np.bincount(labels).tolist()}; of the others: {np.bincount(others).tolist()}")


if __name__ == "__main__":
    main()
