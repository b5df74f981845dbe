"""Several feature spaces of one source: the numbers of all side by side, and errors before anything is embedded."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.io.sources import SourceError, SourceSpec, find_source, open_source
from tests.failures import fails
from tests.sources import listed
from tests.sources import write_parquet as write

NUMBERS = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
HOG, COLOUR = NUMBERS[:, :3], NUMBERS[:, 3:]


def source_of(location, column="hog,colour"):
    return find_source(SourceSpec(str(location), column=column))


def of_files(folder):
    np.save(folder / "hog.npy", HOG)
    np.save(folder / "colour.npy", COLOUR.astype(np.float64))
    return folder


def of_folders(folder):
    for name, values in (("hog", HOG), ("colour", COLOUR)):
        (folder / name).mkdir()
        np.save(folder / name / "0.npy", values[:4])
        np.save(folder / name / "1.npy", values[4:])
    return folder


def of_columns(folder, **columns):
    table = {"id": list("abcdef"), "hog": [*HOG], "other": [*HOG], "colour": [*COLOUR]} | columns
    write(folder / "features.parquet", table)
    return folder


@pytest.mark.parametrize("made", [of_files, of_folders, of_columns])
def test_features_of_all_spaces_side_by_side(made, tmp_path):
    source = source_of(made(tmp_path))
    rows = listed(source)
    assert (source.dim, source.dims, source.spec.format) == (5, {"hog": 3, "colour": 2}, "features")
    np.testing.assert_allclose(open_source(source.spec).features(rows), NUMBERS, rtol=1e-6)
    assert rows["key"].to_pylist()[:2] == (["a", "b"] if made is of_columns else ["0", "1"])
    digest = source.digest()
    again = source_of(tmp_path)
    listed(again)
    assert again.digest() == digest


def test_an_image_that_a_space_lacks_has_no_numbers_there(tmp_path):
    colour = pa.array([*COLOUR[:5], None], pa.list_(pa.float32()))
    source = source_of(of_columns(tmp_path, colour=colour))
    found = source.features(listed(source))
    assert np.isnan(found[5, 3:]).all()
    assert np.isfinite(found[:5]).all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("hog,shape", ["neither shape.npy nor a folder shape", "list.column"]),
        ("hog,hog", ["each feature space once"]),
        ("hog,", ["each feature space once"]),
    ],
)
def test_spaces_that_are_not_there(column, message, tmp_path):
    with fails(SourceError, *message):
        source_of(of_files(tmp_path), column)


def test_a_column_that_is_not_there(tmp_path):
    with fails(SourceError, "'shape' 0 times"):
        source_of(of_columns(tmp_path), "hog,shape")


def test_spaces_of_other_rows_or_files(tmp_path):
    np.save(of_files(tmp_path) / "colour.npy", COLOUR[:5])
    with fails(SourceError, "hog.npy has 6 rows, colour.npy has 5", "same image"):
        listed(source_of(tmp_path))
    (tmp_path / "other").mkdir()
    (of_folders(tmp_path / "other") / "colour" / "1.npy").unlink()
    with fails(SourceError, "files of the same names", "1.npy"):
        listed(source_of(tmp_path / "other"))
