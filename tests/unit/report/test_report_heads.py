"""What heads say of classes and of each other, against the obvious loops and scikit-learn."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import normalized_mutual_info_score

from icce_ray.report.heads import classes_of
from icce_ray.store.artifacts import CONSENSUS, HEAD_LABELS


@pytest.fixture(scope="module")
def found(made):
    return classes_of(made)


@pytest.fixture(scope="module")
def labels(made):
    files = HEAD_LABELS.files(made.marker("heads").files)
    heads = np.array(pa.concat_tables([made.storage.read_table(info.path) for info in files])["labels"].to_pylist())
    consensus = CONSENSUS.files(made.marker("consensus").files)
    table = pa.concat_tables([made.storage.read_table(info.path) for info in consensus])
    return heads, table["label"].to_numpy(), table["agreement"].to_numpy()


def test_pairs_of_heads_against_scikit_learn(found, labels):
    heads, _, _ = labels
    assert found.pairs.shape == (5, 5)
    for one, other in itertools.product(range(5), repeat=2):
        expected = normalized_mutual_info_score(heads[:, one], heads[:, other], average_method="geometric")
        assert found.pairs[one, other] == pytest.approx(expected, abs=1e-9)
    assert found.compared == len(heads)


def test_chance_that_a_head_takes_two_images_for_one_class(found, labels):
    heads, label, _ = labels
    for a, b in itertools.product(range(7), repeat=2):
        same = heads[label == a][:, None, :] == heads[label == b][None, :, :]
        assert found.together[a, b] == pytest.approx(same.mean(), abs=1e-5)


def test_agreement_by_class(found, labels):
    _, label, agreement = labels
    for one in range(7):
        assert found.agreement[one] == pytest.approx(agreement[label == one].mean(), rel=1e-5)
