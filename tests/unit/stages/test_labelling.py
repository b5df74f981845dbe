"""The classifier on features: which columns it reads, and labels with their probabilities."""

import json

import numpy as np
import pytest
import torch

from icce_ray.stages.labelling import Labeller, classifier_inputs, wide
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_WEIGHTS
from tests.failures import fails

CLS = {"cls": [0, 3]}
BOTH = {"cls": [0, 3], "patch_mean": [3, 6]}


@pytest.mark.parametrize(
    ("layout", "dim", "block_dim", "expected"),
    [
        (CLS, 3, 0, {"cls": [(0, 3)]}),
        (BOTH, 6, 0, {"cls": [(0, 3)], "cls+patch_mean": [(0, 6)]}),
        (CLS, 3, 12, {"cls": [(0, 3)], "last4.cls": [(3, 15)]}),
        (
            BOTH,
            6,
            12,
            {
                "cls": [(0, 3)],
                "cls+patch_mean": [(0, 6)],
                "last4.cls": [(6, 18)],
                "last4.cls+patch_mean": [(6, 18), (3, 6)],
            },
        ),
    ],
)
def test_inputs_of_the_grid(layout, dim, block_dim, expected):
    assert classifier_inputs(layout, dim, block_dim) == expected


def test_inputs_read_the_columns_they_name():
    main, blocks = np.array([[1, 1, 1, 2, 2, 2]]), np.full((1, 12), 4)
    features = wide(main, blocks)
    inputs = classifier_inputs(BOTH, 6, 12)
    values = {
        name: [int(value) for part in parts for value in features[0, slice(*part)]] for name, parts in inputs.items()
    }
    assert values == {
        "cls": [1] * 3,
        "cls+patch_mean": [1] * 3 + [2] * 3,
        "last4.cls": [4] * 12,
        "last4.cls+patch_mean": [4] * 12 + [2] * 3,
    }


def test_wide_without_blocks_is_the_feature_itself():
    main = np.ones((2, 3), np.float16)
    assert wide(main, None) is main
    assert wide(main, np.ones((2, 0), np.float16)) is main


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
    label, confidence = labeller(main, blocks)
    assert (label.dtype, confidence.dtype) == (np.int32, np.float32)
    assert label.tolist() == [0, 1, 2, 2]
    inputs = torch.from_numpy(wide(main, blocks)[:, [6, 7, 3]])
    expected = labeller.classifier.probabilities(inputs).max(dim=1).values
    np.testing.assert_array_equal(confidence, expected.numpy())
    assert (confidence > 0.9).all()
    assert [len(part) for part in labeller(main[:0], blocks[:0])] == [0, 0]


def test_a_part_of_the_images_gets_the_same_labels(tmp_path):
    generator = np.random.default_rng(0)
    classifier(str(tmp_path), [[0, 6]], generator.normal(size=(4, 6)).tolist())
    labeller = Labeller(str(tmp_path), device="cpu")
    main = generator.normal(size=(9, 6)).astype(np.float16)
    whole = labeller(main, None)
    parts = [labeller(main[start : start + 3], None) for start in range(0, 9, 3)]
    np.testing.assert_array_equal(whole[0], np.concatenate([label for label, _ in parts]))
    np.testing.assert_allclose(whole[1], np.concatenate([confidence for _, confidence in parts]), rtol=1e-6)


def test_a_run_without_classifier_says_so(tmp_path):
    with fails(RunError, "classifier", "not complete"):
        Labeller(str(tmp_path), device="cpu")
