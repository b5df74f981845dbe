"""Features computed elsewhere: the same numbers row by row, from .npy and Parquet, and clear errors for all else."""

import io
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.sources import SourceError, SourceSpec, open_source
from icce_ray.io.sources import features as module
from icce_ray.io.sources.features import feature_files
from tests.failures import fails
from tests.sources import bytes_of, listed
from tests.sources import write_parquet as write


def source_of(location, **options):
    return feature_files(SourceSpec(str(location), "features", **options))


def values(rows, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def lists(array, kind=None):
    return pa.array(list(array), kind or pa.list_(pa.float32()))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_npy_rows(tmp_path, dtype):
    first, second = values(5, 3).astype(dtype), values(2, 3, seed=1).astype(dtype)
    np.save(tmp_path / "b.npy", second)
    np.save(tmp_path / "a.npy", first)
    write(tmp_path / "metadata.parquet", {"url": ["x"]})
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows.to_pylist()[5] == {"uri": "b.npy/0", "key": "0", "size": None, "container": "b.npy", "position": 0}
    assert (source.dim, len(rows), source.left_out) == (3, 7, {"other files": 1})
    found = open_source(source.spec).features(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate([first, second]).astype(np.float32))
    one = source_of(tmp_path / "b.npy")
    assert listed(one)["container"].to_pylist() == ["", ""]
    np.testing.assert_array_equal(one.features(listed(one)), second.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.asfortranarray(values(3, 4)), "Fortran order"),
        (np.arange(12).reshape(3, 4), "int64 [3, 4]"),
        (values(3, 4).reshape(3, 2, 2), "float32 [3, 2, 2]"),
        (values(3, 4).ravel(), "float32 [12]"),
        (np.zeros((3, 0), np.float32), "float32 [3, 0]"),
        (np.zeros((2, 2), np.longdouble), "float128"),
        (np.array([["a", 1]], object), "object [1, 2]"),
        (np.zeros(3, [("ü", "<f4")]), "[3]"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_arrays_that_are_no_features(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=array.dtype == object)
    with fails(SourceError, "a.npy", message):
        source_of(tmp_path)


def test_npy_files_that_are_cut_or_none(tmp_path):
    np.save(tmp_path / "a.npy", values(3, 4))
    whole = (tmp_path / "a.npy").read_bytes()
    for length in (0, 5, 9, 60, 128, len(whole) - 1):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        with fails(SourceError, "a.npy"):
            source_of(tmp_path)
    (tmp_path / "a.npy").write_bytes(b"text" * 100)
    with fails(SourceError, "magic string"):
        source_of(tmp_path)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    "header",
    [
        *("{'descr': '<f4", "(" * 5000, "[" * 9000, "-" * 9000 + "1", "{[]: 1}", HEADER.replace("%s", "3")),
        *(HEADER % shape for shape in ("(-3, 4)", "(3, -4)", "(10**15, 4)", f"({10**15}, 4)", f"(0, {10**15})")),
        HEADER.replace("'<f4'", "[('a'," * 60 + "'<f4'" + ",)]" * 60) % "(3, 4)",
    ],
    ids=lambda header: header[:12] + header[-12:],
)
def test_hostile_npy_headers(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + bytes(48))
    with fails(SourceError, "a.npy", "[N, D]") if "10" not in header else fails(SourceError, "a.npy"):
        source_of(tmp_path)


def test_an_npy_header_is_not_read_into_memory_however_long_it_says_it_is(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + bytes(48))
    with fails(SourceError, "a.npy", "4,294,967,295 bytes", "1,048,576"):
        source_of(tmp_path)


@pytest.mark.parametrize("width", [0, 2**21])
def test_a_feature_has_some_numbers_and_not_any_number(tmp_path, width):
    write(tmp_path / "a.parquet", {"f": pa.array([[0.0] * width], pa.list_(pa.float32()))})
    with fails(SourceError, "a.parquet", f"{width} numbers", "1,048,576", "list.column=NAME"):
        source_of(tmp_path, column="f")


def test_a_single_row_or_column_has_no_order(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(values(4, 1)))
    assert source_of(tmp_path).dim == 1


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3), pa.list_(pa.float16())),
        pa.list_(pa.float16(), 3),
    ],
    ids=str,
)
def test_parquet_rows(tmp_path, kind):
    array = values(50, 3).astype(np.float16)
    column = pa.array([None if row in (0, 7) else array[row] for row in range(50)], kind)
    write(tmp_path / "a.parquet", {"image_id": list(range(100, 150)), "emb": column}, row_group_size=8)
    source = source_of(tmp_path)
    rows = listed(source)
    assert (source.dim, source.spec.column) == (3, "emb")
    assert rows["key"].to_pylist() == [str(key) for key in range(100, 150)]
    expected = array.astype(np.float32)
    expected[[0, 7]] = np.nan
    np.testing.assert_array_equal(open_source(source.spec).features(rows), expected)
    chosen = [49, 3, 3, 8, 0, 20]
    np.testing.assert_array_equal(source.features(rows.take(chosen)), expected[chosen])


def test_null_numbers_are_nan(tmp_path):
    write(tmp_path / "a.parquet", {"emb": pa.array([[1.0, None], [3.0, 4.0]])})
    source = source_of(tmp_path)
    np.testing.assert_array_equal(source.features(listed(source)), [[1.0, np.nan], [3.0, 4.0]])


def test_which_column(tmp_path):
    one, two = lists(values(2, 3)), lists(values(2, 4))
    path = write(tmp_path / "a.parquet", {"boxes": one, "embedding": two})
    assert source_of(path).dim == 4
    assert source_of(path, column="boxes").dim == 3
    write(path, {"x": one, "y": two, "label": [1, 2]})
    with fails(SourceError, "(x, y)"):
        source_of(path)
    write(path, {"name": ["p", "q"], "y": two})
    assert listed(source_of(path, key_column="name"))["key"].to_pylist() == ["p", "q"]


def test_all_files_have_the_same_width(tmp_path):
    np.save(tmp_path / "a.npy", values(2, 3))
    np.save(tmp_path / "b.npy", values(2, 4))
    with fails(SourceError, "b.npy", "has 4 numbers a row, the first file 3"):
        listed(source_of(tmp_path))
    write(tmp_path / "a.parquet", {"f": lists(values(2, 3))})
    write(tmp_path / "b.parquet", {"f": lists(values(2, 4))})
    with fails(SourceError, "b.parquet", "has 4 numbers a row, the first file 3"):
        listed(source_of(tmp_path, column="f"))
    write(tmp_path / "b.parquet", {"f": pa.array([[1.0, 2.0, 3.0], [4.0]])})
    source = source_of(tmp_path, column="f")
    with fails(SourceError, "b.parquet, rows from 0 on: a row of 1 numbers", "here 3"):
        source.features(listed(source))


def test_nothing_there(tmp_path):
    with fails(SourceError, "no such file"):
        source_of(tmp_path)
    np.save(tmp_path / "a.npy", values(0, 3))
    with fails(SourceError, "have no rows"):
        listed(source_of(tmp_path))
    write(tmp_path / "a.parquet", {"f": lists([None], pa.list_(pa.float32()))})
    with fails(SourceError, "no features in any row"):
        source_of(tmp_path, column="f")


def test_rows_that_are_gone(tmp_path):
    np.save(tmp_path / "a.npy", values(5, 3))
    rows = listed(source_of(tmp_path))
    np.save(tmp_path / "a.npy", values(3, 3))
    with fails(SourceError, "a.npy has 3 rows; row 4 was listed"):
        source_of(tmp_path).features(rows)


def test_there_are_no_images(tmp_path):
    np.save(tmp_path / "a.npy", values(1, 3))
    source = source_of(tmp_path)
    with fails(TypeError, "holds features, not images"):
        bytes_of(source)


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    array = values(60, 5)
    np.save(folder / "a.npy", array[:35])
    np.save(folder / "b.npy", array[35:])
    return array, source_of(folder), listed(source_of(folder))


@settings(deadline=None, max_examples=50)
@given(chosen=st.lists(st.integers(0, 59)), span=st.integers(1, 400))
def test_any_rows_in_any_order(sixty, chosen, span):
    array, source, rows = sixty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SPAN", span)
        some = rows.take(pa.array(chosen, pa.int64()))
        np.testing.assert_array_equal(source.features(some), array[chosen])
        spans = source.spans(some)
        assert [row for begin, end in spans for row in range(begin, end)] == list(range(len(chosen)))


def test_on_a_store_only_the_rows_asked_for_are_fetched(radosgw):
    bucket = radosgw.bucket()
    array = values(20_000, 64)
    file, table = io.BytesIO(), io.BytesIO()
    np.save(file, array)
    pq.write_table(pa.table({"features": lists(array[:500])}), table)
    radosgw.client.put_object(Bucket=bucket, Key="npy/a.npy", Body=file.getvalue())
    radosgw.client.put_object(Bucket=bucket, Key="table/a.parquet", Body=table.getvalue())
    source = source_of(radosgw.uri(f"{bucket}/npy"))
    rows = listed(source)
    asked, opened = [], source.open

    def watched(*args, **kwargs):
        store_file = opened(*args, **kwargs)
        read = store_file.read_at
        store_file.read_at = lambda position, size: (asked.append(size), read(position, size))[1]
        return store_file

    source.open = watched
    np.testing.assert_array_equal(source.features(rows.slice(15_000, 300)), array[15_000:15_300])
    assert asked == [4096, 300 * 64 * 4]
    other = source_of(radosgw.uri(f"{bucket}/table"))
    np.testing.assert_array_equal(other.features(listed(other)), array[:500])
