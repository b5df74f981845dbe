"""The classifier on features: labels with their probabilities."""

import json

import numpy as np
import torch

from icce_ray.stages.classifier import Labeller
from icce_ray.stages.features import wide
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_WEIGHTS
from tests.failures import fails


def classifier(root, columns, weight):
    """A run whose classifier stage is complete."""
    store = Store(root)
    tensors = {"weight": torch.tensor(weight, dtype=torch.float32), "bias": torch.zeros(len(weight))}
    files = [store.storage.write_tensors(CLASSIFIER_WEIGHTS.path, tensors)]
    store.storage.write_bytes(
        CLASSIFIER_DESCRIPTION.path, json.dumps({"columns": columns, "classes": len(weight)}).encode()
    )
    files.append(store.storage.describe(CLASSIFIER_DESCRIPTION.path))
    store.commit("classifier", files, fingerprint="", summary={}, seconds=0)


def test_labels_and_their_probabilities(tmp_path):
    classifier(str(tmp_path), [[6, 8], [3, 4]], [[5, 0, 0], [0, 5, 0], [0, 0, 5]])
    labeller = Labeller(str(tmp_path), device="cpu")
    main = np.zeros((4, 6), np.float16)
    blocks = np.zeros((4, 2), np.float16)
    blocks[0, 0] = blocks[1, 1] = main[2, 3] = main[3, 3] = 1
    label, confidence, second, second_confidence = labeller(main, blocks)
    assert (label.dtype, confidence.dtype) == (np.int32, np.float32)
    assert label.tolist() == [0, 1, 2, 2]
    inputs = torch.from_numpy(wide(main, blocks)[:, [6, 7, 3]])
    probabilities = labeller.classifier.probabilities(inputs).numpy()
    expected = -np.sort(-probabilities, axis=1)
    np.testing.assert_array_equal(confidence, expected[:, 0])
    np.testing.assert_array_equal(second_confidence, expected[:, 1])
    assert (second.dtype, second_confidence.dtype) == (np.int32, np.float32)
    assert (second != label).all()
    np.testing.assert_array_equal(probabilities[range(4), second], second_confidence)
    assert (confidence > 0.9).all()
    assert [len(part) for part in labeller(main[:0], blocks[:0])] == [0, 0, 0, 0]


def test_a_part_of_the_images_gets_the_same_labels(tmp_path):
    generator = np.random.default_rng(0)
    classifier(str(tmp_path), [[0, 6]], generator.normal(size=(4, 6)).tolist())
    labeller = Labeller(str(tmp_path), device="cpu")
    main = generator.normal(size=(9, 6)).astype(np.float16)
    whole = labeller(main, None)
    parts = [labeller(main[start : start + 3], None) for start in range(0, 9, 3)]
    for values, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(values, np.concatenate(of_parts), rtol=1e-6)


def test_a_run_without_classifier_says_so(tmp_path):
    with fails(RunError, "classifier", "not complete"):
        Labeller(str(tmp_path), device="cpu")
