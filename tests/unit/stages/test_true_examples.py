"""Examples of true classes: the first of each pair, whatever the shards, and the most frequent of each class."""

import numpy as np
import pytest

from icce_ray.io.storage import Storage
from icce_ray.stages import true_examples
from icce_ray.stages.true_examples import examples, joined, write_examples
from icce_ray.store.artifacts import TRUE_EXAMPLES


@pytest.fixture
def labelled():
    random = np.random.default_rng(0)
    return random.permutation(400), random.integers(0, 3, 400), random.integers(0, 6, 400)


def test_those_of_shards_are_those_of_all(labelled):
    ids, label, true = labelled
    found = examples(ids, label, true).to_pylist()
    for one in range(3):
        for other in range(6):
            mine = [row["image_id"] for row in found if (row["label"], row["true"]) == (one, other)]
            assert mine == sorted(ids[(label == one) & (true == other)])[: true_examples.EXAMPLES]
    parts = [examples(*(values[start : start + 90] for values in labelled)) for start in range(0, 400, 90)]
    assert joined(parts).to_pylist() == found
    assert len(examples(*np.empty((3, 0), np.int64))) == 0


def test_the_most_frequent_true_classes_are_written(tmp_path, labelled, monkeypatch):
    monkeypatch.setattr(true_examples, "TRUE_CLASSES", 2)
    ids, label, true = labelled
    table = np.zeros((3, 6), np.int64)
    np.add.at(table, (label, true), 1)
    write_examples(Storage(tmp_path), examples(ids, label, true), table, list("abcdef"))
    rows = Storage(tmp_path).read_table(TRUE_EXAMPLES).to_pylist()
    for one in range(3):
        expected = ["abcdef"[other] for other in np.argsort(-table[one], kind="stable")[:2]]
        assert list(dict.fromkeys(row["true"] for row in rows if row["label"] == one)) == expected
