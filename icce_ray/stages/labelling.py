"""The run's classifier applied to features: what `predict` runs beside the backbone, and on stored features."""

from __future__ import annotations

import numpy as np
import torch

from icce_ray.core.linear import LinearClassifier
from icce_ray.store import Store, check_content
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_WEIGHTS


def wide(main: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """All stored features of some images side by side, float16[n, D + D_blocks]: what input columns refer to."""
    return main if blocks is None or not blocks.shape[1] else np.concatenate([main, blocks], axis=1)


def classifier_inputs(layout: dict[str, list[int]], dim: int, block_dim: int) -> dict[str, list[tuple[int, int]]]:
    """Inputs of the classifier's grid by name, as column ranges of `wide` (paper 3.3).

    With one block: the first part of the feature alone and all of it (CLS, CLS + patch mean). With the last four
    blocks: their CLS tokens, alone and with what follows the first part.
    """
    (first, (start, stop)), *rest = layout.items()
    whole = "+".join(layout)
    inputs = {first: [(start, stop)]}
    if rest:
        inputs[whole] = [(0, dim)]
    if block_dim:
        blocks = (dim, dim + block_dim)
        inputs[f"last4.{first}"] = [blocks]
        if rest:
            inputs[f"last4.{whole}"] = [blocks, (stop, dim)]
    return inputs


class Labeller:
    """Labels and confidences by the classifier of a run."""

    def __init__(self, root: str, *, device: str) -> None:
        store = Store(root)
        check_content(store, "classifier", CLASSIFIER_WEIGHTS.path, CLASSIFIER_DESCRIPTION.path)
        weights = store.storage.read_tensors(CLASSIFIER_WEIGHTS.path)
        self.description = store.document(CLASSIFIER_DESCRIPTION)
        self.classifier = LinearClassifier(weights["weight"].to(device), weights["bias"].to(device))
        self.columns = np.concatenate([np.arange(*part) for part in self.description["columns"]])
        self.device = device

    def __call__(self, main: np.ndarray, blocks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """label int32[n] and its probability float32[n] for features of n images, float16."""
        features = torch.from_numpy(np.ascontiguousarray(wide(main, blocks)[:, self.columns])).to(self.device)
        with torch.no_grad():
            confidence, label = self.classifier.probabilities(features).max(dim=1)
        return label.to(torch.int32).cpu().numpy(), confidence.cpu().numpy()
