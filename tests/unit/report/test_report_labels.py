"""Labels of a run, and what heads say of classes and of each other, against the obvious loops and scikit-learn."""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import normalized_mutual_info_score

from icce_ray.io.storage import FileInfo
from icce_ray.report.labels import classes_of, evenly, labelled
from icce_ray.store import Store
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


def test_some_shards_are_evenly_spread():
    files = [FileInfo(path=f"{part:04d}", bytes=1, sha256="", rows=1000) for part in range(500)]
    some = evenly(files, 0.04)
    assert (len(some), some[0], some[-1]) == (20, files[0], files[-1])
    gaps = np.diff([int(info.path) for info in some])
    assert gaps.max() - gaps.min() <= 1
    assert evenly(files, 1.5) == files
    assert evenly(files, 0.0) == files[:1]
    assert evenly([], 0.5) == []


def test_before_the_classifier_the_consensus_is_shown(tmp_path, made):
    copy = shutil.copytree(made.root, tmp_path / "run")
    shutil.rmtree(copy / "predictions")
    assert labelled(Store(str(copy))).share == "agreement"
    shutil.rmtree(copy / "consensus")
    assert labelled(Store(str(copy))) is None
