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
    features = digits.data  # [1797, 64]; yours: np.load("features.npy")

    icce = icce_ray.ICCE(n_clusters=10)
    labels = icce.fit_predict(features[:1000])
    others = icce.predict(features[1000:])

    print(f"images in each class: {np.bincount(labels).tolist()}; of the others: {np.bincount(others).tolist()}")


if __name__ == "__main__":
    main()
