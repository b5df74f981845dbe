"""A classifier's parameters in .npz, and a module of a few lines that makes scikit-learn's classifier of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icce_ray.export.predictor import Trained

#: What an export has beside the parameters; it needs NumPy and scikit-learn only.
LOADER = '''"""The classifier of this folder as one of scikit-learn. Nothing is unpickled."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression


def load(folder=Path(__file__).parent):
    """A fitted LogisticRegression: `predict` and `predict_proba` take features [n, D], as the run stores them."""
    with np.load(Path(folder) / "classifier.npz", allow_pickle=False) as parameters:
        model = LogisticRegression()
        model.coef_, model.intercept_ = parameters["coef"], parameters["intercept"]
        model.classes_ = parameters["classes"]
    model.n_features_in_ = model.coef_.shape[1]
    return model
'''


def write_sklearn(trained: Trained, folder: Path) -> None:
    """`classifier.npz` (coef float64 [K, W], intercept [K], classes 0 to K - 1) and `predictor.py`.

    Of two classes scikit-learn keeps one row, the difference: [1, W].
    """
    weight, bias = trained.head.weight.double().numpy(), trained.head.bias.double().numpy()
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    np.savez(folder / "classifier.npz", coef=weight, intercept=bias, classes=np.arange(trained.classes))
    (folder / "predictor.py").write_text(LOADER)
