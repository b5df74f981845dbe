"""Columns by name and rows by image_id: which columns the classifier's grid reads, and the rows of neighbours."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.stages.features import FeatureRows, classifier_inputs, list_column, wide
from icce_ray.stages.neighbors import row_numbers
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, SAMPLE

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


def test_rows_of_a_run_that_a_later_version_went_on_with_are_one_sample(tmp_path):
    """Figures of the pictures are in the later shards only."""
    store, files = Store(str(tmp_path)), []
    for part in range(2):
        names = {name: pa.array([f"{part}{row}" for row in range(3)]) for name in ("uri", "key")}
        table = {"image_id": pa.array(range(3 * part, 3 * part + 3), pa.int64())} | names
        table["features"] = list_column(np.full((3, 2), part, np.float16))
        if part:
            table["width"] = pa.array([8] * 3, pa.int32())
        files.append(FEATURES.write(store.storage, pa.table(table), part))
    rows = FeatureRows(store.root, tuple(files)).take(np.array([1, 4]))
    assert SAMPLE.write(store.storage, rows, 0).rows == 2
    assert rows.column_names == ["image_id", "uri", "key", "features"]


@pytest.mark.parametrize(
    "image_ids",
    [
        np.arange(7, 40),
        np.array([3]),
        np.array([0, 1, 4, 5, 90]),
        np.array([5, 10**12, 10**12 + 3]),
        np.sort(np.random.default_rng(0).choice(10**6, 1000, replace=False)),
        np.append(np.arange(50), 10**12),
    ],
    ids=["no gap", "one", "few gaps", "far apart", "a sparse sample", "many together and one far away"],
)
def test_row_numbers_of_image_ids(image_ids):
    asked = np.concatenate([image_ids, np.random.default_rng(0).choice(image_ids, 100)])
    found = row_numbers(image_ids)(asked)
    assert np.array_equal(image_ids[found], asked)


def test_ids_of_a_sparse_sample_are_not_searched_one_by_one(monkeypatch):
    """Ten or more times as long: 30 min for the lists of two million images."""
    monkeypatch.setattr(np, "searchsorted", None)
    image_ids = np.sort(np.random.default_rng(0).choice(10**8, 10**5, replace=False))
    assert np.array_equal(row_numbers(image_ids)(image_ids[::-7]), np.arange(10**5)[::-7])
