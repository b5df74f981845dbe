"""Lance datasets: the version that was listed is read, whatever came after; every row's bytes or its reason."""

import random
import sys

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.sources import SourceError, SourceSpec, find_source, open_source
from tests.failures import fails
from tests.forms import IMAGE, write
from tests.sources import bytes_of, listed, rows_give_their_bytes


def found(location, **options):
    return find_source(SourceSpec(str(location), **options))


@pytest.fixture
def six(tmp_path):
    """A dataset of six rows in two fragments."""
    images = pa.array([b"0", b"1" * 9, None, b"", b"4", b"5"], pa.binary())
    table = pa.table({"image": images, "My key": [f"k{row}" for row in range(6)], "id": range(6)})
    lance.write_dataset(table, tmp_path / "six.lance", max_rows_per_file=3)
    return tmp_path / "six.lance"


def test_rows_are_named_by_version_and_number(six):
    source = found(six)
    rows = listed(source)
    assert source.spec.format == "lance"
    assert rows.slice(1, 1).to_pylist() == [
        {"uri": "six.lance/v1/1", "key": "1", "size": None, "container": "1", "position": 1}
    ]
    one, large, null, empty, *others = bytes_of(open_source(source.spec), rows, limit=8)
    assert [one, *others] == [b"0", b"4", b"5"]
    assert [reject.reason for reject in (large, null, empty)] == ["too_many_bytes", "empty", "empty"]
    assert listed(found(six, key_column="My key"))["key"].to_pylist() == [f"k{row}" for row in range(6)]


def test_the_listed_version_is_read_and_a_newer_one_is_seen(six):
    source = found(six)
    rows, before = listed(source), source.digest()
    data = lance.dataset(six)
    data.delete("id = 4")
    data.insert(pa.table({"image": [b"new"], "My key": ["k6"], "id": [6]}))
    assert bytes_of(open_source(source.spec), rows)[4] == b"4"
    newer = found(six)
    assert bytes_of(newer, listed(newer))[4:] == [b"5", b"new"]
    assert newer.digest() != before


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_blobs(tmp_path, version):
    """Images in files of their own, as both layouts of Lance have them; one too large is not read."""
    images = [b"1", None, b"", b"4" * 100_000]
    old = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    field = old if version == "2.1" else lance.blob_field("image")
    values = pa.array(images, pa.large_binary()) if version == "2.1" else lance.blob_array(images)
    table = pa.table({"image": values}, pa.schema([field]))
    lance.write_dataset(table, tmp_path / "a.lance", data_storage_version=version)
    source = found(tmp_path / "a.lance")
    one, *others = bytes_of(source, listed(source), limit=99_999)
    assert (one, [reject.reason for reject in others]) == (b"1", ["empty", "empty", "too_many_bytes"])
    assert bytes_of(source, listed(source).take([3, 0, 0])) == [images[3], b"1", b"1"]


def test_a_dataset_that_is_gone_gives_rejects(six):
    source = found(six)
    rows = listed(source)
    for path in (six / "data").iterdir():
        path.unlink()
    assert {reject.reason for reject in bytes_of(open_source(source.spec), rows)} == {"unreadable"}


def test_what_is_no_dataset_of_images(six, tmp_path, monkeypatch):
    with fails(SourceError, "no column fits", "id (int64)"):
        lance.write_dataset(pa.table({"id": [1]}), tmp_path / "none.lance")
        found(tmp_path / "none.lance")
    (tmp_path / "empty").mkdir()
    with fails(SourceError, "_versions", "another --format"):
        found(tmp_path / "empty", format="lance")
    with fails(SourceError, "local folders and s3://"):
        open_source(SourceSpec("fsspec+memory://x/six.lance", "lance"))
    monkeypatch.setitem(sys.modules, "lance", None)
    with fails(SourceError, "pip install 'icce-ray[lance]'"):
        found(six)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """Images by row, the dataset, and its rows."""
    draw = random.Random(0)
    images = sorted((f"{row:03d}.png", draw.randbytes(draw.choice([1, 500, 20000]))) for row in range(100))
    folder = tmp_path_factory.mktemp("lance")
    source = found(folder / write("lance", images, folder))
    assert source.first_schema[1].field("image").type == IMAGE
    return [data for _, data in images], source, listed(source)


@settings(deadline=None, max_examples=30)
@given(chosen=st.lists(st.integers(0, 99), min_size=1))
def test_any_rows_in_any_order_give_their_bytes(hundred, chosen):
    images, source, rows = hundred
    rows_give_their_bytes(source, rows, images, chosen)
