"""Images in Parquet: which column is meant, what names a row, and every row's bytes or its reason."""

import random
import string

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.filenames import to_bytes
from icce_ray.io.sources import SourceError, SourceSpec, open_source
from icce_ray.io.sources import parquet as module
from icce_ray.io.sources.parquet import ParquetSource
from tests.failures import fails
from tests.sources import bytes_of, listed, read, rows_give_their_bytes
from tests.sources import write_parquet as write

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def source_of(location, **options):
    return ParquetSource(SourceSpec(str(location), "parquet", **options))


def keys_of(source):
    return listed(source)["key"].to_pylist()


def binary(*values):
    return pa.array(values, pa.binary())


def latin(*texts):
    """Strings in Latin-1, as Arrow itself would never make them."""
    data = [text.encode("latin-1") for text in texts]
    offsets = np.cumsum([0, *map(len, data)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(offsets), pa.py_buffer(b"".join(data)))


def test_rows_are_named_by_file_and_number(tmp_path):
    write(tmp_path / "b.parquet", {"image": binary(b"3")})
    write(tmp_path / "a.parquet", {"image": binary(b"1", b"2")})
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows.to_pylist() == [
        {"uri": "a.parquet/0", "key": "0", "size": None, "container": "a.parquet", "position": 0},
        {"uri": "a.parquet/1", "key": "1", "size": None, "container": "a.parquet", "position": 1},
        {"uri": "b.parquet/0", "key": "0", "size": None, "container": "b.parquet", "position": 0},
    ]
    assert source.spec.column == "image"
    assert bytes_of(open_source(source.spec), rows) == [b"1", b"2", b"3"]
    one = source_of(tmp_path / "b.parquet")
    assert listed(one).to_pylist()[0] == {**rows.to_pylist()[2], "container": ""}
    assert bytes_of(one, listed(one)) == [b"3"]


def test_opening_again_looks_at_nothing(tmp_path):
    spec = source_of(write(tmp_path / "a.parquet", {"image": binary(b"1")})).spec
    (tmp_path / "a.parquet").unlink()
    assert ParquetSource(spec).spec == spec


@pytest.mark.parametrize(
    "keys",
    [
        pa.array(["x", "ü", "z"]),
        pa.array(["x", "ü", "z"], pa.large_string()),
        pa.array(["x", "ü", "x"]).dictionary_encode(),
        pa.array([7, 2**60, -1]),
        pa.array([1.5, 2.0, 3.25]),
        pa.array([True, False, True]),
        pa.array([b"x", "ü".encode(), b"z"]),
        pa.array(["x", "ü", "z"], pa.string_view()),
    ],
    ids=lambda keys: str(keys.type),
)
def test_a_key_column_of_any_scalar_type(tmp_path, keys):
    path = write(tmp_path / "a.parquet", {"image": binary(b"1", b"2", b"3"), "name": keys})
    found = keys_of(source_of(path, column="image", key_column="name"))
    plain = [value.decode() if isinstance(value, bytes) else value for value in keys.to_pylist()]
    assert [type(plain[0])(key) if not isinstance(plain[0], bool) else key == "true" for key in found] == plain


def test_the_usual_key_columns_in_their_order(tmp_path):
    images, text = binary(b"1"), pa.array(["text"])
    path = write(tmp_path / "a.parquet", {"url": text, "id": pa.array([8]), "image": images})
    assert keys_of(source_of(path)) == ["8"]
    write(path, {"id": pa.array([1.5]), "filename": pa.array(["f.jpg"]), "url": text, "image": images})
    assert keys_of(source_of(path)) == ["f.jpg"]
    write(path, {"caption": text, "image": images})
    assert keys_of(source_of(path)) == ["0"]


def test_rows_without_a_key_take_the_next_name(tmp_path):
    structs = [{"bytes": b"1", "path": "one.jpg"}, {"bytes": b"2", "path": None}, None, {"bytes": b"4", "path": None}]
    table = {"image": pa.array(structs, IMAGE), "id": pa.array(["a", "b", None, None])}
    source = source_of(write(tmp_path / "a.parquet", table))
    assert keys_of(source) == ["one.jpg", "b", "2", "3"]
    assert keys_of(source_of(tmp_path / "a.parquet", key_column="id")) == ["a", "b", "2", "3"]
    *found, nothing, last = bytes_of(source, listed(source))
    assert (found, nothing.reason, last) == ([b"1", b"2"], "empty", b"4")


def test_keys_that_are_no_text_are_an_error(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": binary(b"1"), "raw": pa.array([b"\xff"], pa.binary())})
    with fails(SourceError, "a.parquet: column 'raw' holds no text in rows 0 to 0"):
        keys_of(source_of(path, column="image", key_column="raw"))
    with fails(SourceError, "no plain column 'nope'", "list.key_column=NAME", "image (binary)"):
        keys_of(source_of(path, column="image", key_column="nope"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), IMAGE], ids=str)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_type_of_column(tmp_path, kind, compression):
    values = [b"1", None, b"", b"4" * 100]
    structs = [{"bytes": value, "path": "p.jpg"} for value in values]
    column = pa.array(structs if pa.types.is_struct(kind) else values, kind)
    path = write(tmp_path / "a.parquet", {"odd.name": column}, compression=compression)
    source = source_of(path)
    one, null, empty, large = bytes_of(source, listed(source), limit=99)
    assert (source.spec.column, one) == ("odd.name", b"1")
    assert [reject.reason for reject in (null, empty, large)] == ["empty", "empty", "too_many_bytes"]
    if kind == IMAGE:
        assert "only the path 'p.jpg'" in null.detail


def test_rows_that_a_download_left_empty_say_why(tmp_path):
    table = {
        "jpg": binary(b"1", None),
        "key": ["000", "001"],
        "status": ["success", "failed_to_download"],
        "error_message": [None, "HTTP Error 404"],
        "url": ["http://a", "http://b"],
    }
    source = source_of(write(tmp_path / "00000.parquet", table))
    rows = listed(source)
    one, reject = bytes_of(source, rows)
    assert (rows["key"].to_pylist(), one) == (["000", "001"], b"1")
    assert str(reject) == "empty: the row has no bytes: failed_to_download: HTTP Error 404"


LATIN = latin("caf\u00e9.jpg", "b.jpg")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_keys_that_are_not_utf8_survive(tmp_path, kind):
    source = source_of(write(tmp_path / "a.parquet", {"image": binary(b"1", b"2"), "key": LATIN.cast(kind)}))
    rows = listed(source)
    assert (rows["key"].to_pylist(), bytes_of(source, rows)) == ([r"caf\xe9.jpg", "b.jpg"], [b"1", b"2"])
    assert [to_bytes(key) for key in rows["key"].to_pylist()] == [b"caf\xe9.jpg", b"b.jpg"]
    rows.validate(full=True)


def test_what_a_row_says_of_itself_need_not_be_utf8(tmp_path):
    nothing = pa.nulls(2, pa.binary())
    for table in (
        {"image": nothing, "status": LATIN},
        {"image": pa.StructArray.from_arrays([nothing, LATIN], ["bytes", "path"])},
    ):
        source = source_of(write(tmp_path / "a.parquet", table))
        reject, _ = bytes_of(source, listed(source))
        assert reject.reason == "empty"
        assert "caf" in reject.detail


def test_hostile_footers(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", {"imagxx": binary(b"1"), "image": binary(b"1")})
    path.write_bytes(path.read_bytes().replace(b"imagxx", b"imag\xe9x"))
    with fails(SourceError, "a.parquet", "utf-8"):
        source_of(path)
    write(path, {"image": pa.nulls(5000, pa.binary())})
    monkeypatch.setattr(module.columns, "_ROWS_PER_BYTE", 1)
    with fails(SourceError, "a.parquet", "5000 rows"):
        source_of(path)


def test_a_small_file_does_not_unpack_to_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_UNPACKED", 3 << 20)
    large, options = bytes(4 << 20), {"compression": "zstd"}
    for images, limit, reason in [
        ([large], 1 << 20, "the limit of 1048576"),
        ([large, *(bytes([number]) for number in range(5))], 1 << 20, "row group"),
        ([bytes(2 << 20)] * 50, 1 << 22, ""),
    ]:
        dictionary = pa.array(images).dictionary_encode()
        path = write(tmp_path / "a.parquet", {"image": dictionary}, store_schema=False, **options)
        assert path.stat().st_size < 10_000
        source = source_of(path)
        rows, before, most = listed(source), pa.total_allocated_bytes(), 0
        for image, found in zip(images, read(source, rows, limit), strict=True):
            most = max(most, pa.total_allocated_bytes() - before)
            assert (found == image) if not reason else (found.reason == "too_many_bytes" and reason in found.detail)
        assert most < 32 << 20


def test_several_columns_or_none_are_an_error_that_lists_them(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": binary(b"1"), "mask": binary(b"2"), "label": [3]})
    with fails(SourceError, "(image, mask)", "list.column=NAME", "label (int64)"):
        source_of(path)
    source = source_of(path, column="mask")
    assert bytes_of(source, listed(source)) == [b"2"]
    with fails(SourceError, "'label' is int64, which does not fit"):
        listed(source_of(path, column="label"))
    with fails(SourceError, "no column fits"):
        source_of(write(path, {"label": [3]}))


def test_files_of_another_schema_are_named(tmp_path):
    write(tmp_path / "a.parquet", {"image": binary(b"1"), "id": ["x"]})
    write(tmp_path / "b.parquet", {"picture": binary(b"2"), "id": ["y"]})
    with fails(SourceError, "b.parquet has column 'image' 0 times", "picture (binary)"):
        listed(source_of(tmp_path))
    write(tmp_path / "b.parquet", {"image": ["text"], "id": ["y"]})
    with fails(SourceError, "b.parquet: column 'image' is string"):
        listed(source_of(tmp_path))
    write(tmp_path / "b.parquet", {"image": binary(b"2")})
    with fails(SourceError, "b.parquet has column 'id' 0 times"):
        listed(source_of(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 10])
def test_files_that_are_none(tmp_path, content):
    write(tmp_path / "a.parquet", {"image": binary(b"1")})
    (tmp_path / "b.parquet").write_bytes(content)
    with fails(SourceError, "b.parquet", f"{len(content)} bytes"):
        listed(source_of(tmp_path))


def test_no_rows_and_no_files(tmp_path):
    with fails(SourceError, "0 images"):
        source_of(tmp_path)
    write(tmp_path / "a.parquet", {"image": binary()})
    with fails(SourceError, "0 images"):
        listed(source_of(tmp_path))
    write(tmp_path / "b.parquet", {"image": binary(b"1")})
    assert keys_of(source_of(tmp_path)) == ["0"]


def test_damage_in_a_row_group_rejects_its_rows_only(tmp_path):
    draw = random.Random(0)
    images = [draw.randbytes(3000) for _ in range(30)]
    path = write(tmp_path / "a.parquet", {"image": binary(*images)}, row_group_size=10, use_dictionary=False)
    source = source_of(path)
    rows = listed(source)
    metadata = pq.ParquetFile(path).metadata
    start = metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20000] = bytes(20000)
    path.write_bytes(data)
    found = bytes_of(source, rows)
    assert found[:10] + found[20:] == images[:10] + images[20:]
    assert {reject.reason for reject in found[10:20]} == {"unreadable"}


def test_files_that_changed_since_the_listing(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": binary(b"1", b"2")})
    spec = source_of(path).spec
    rows = listed(source_of(path))
    write(path, {"image": binary(b"1")})
    one, gone = bytes_of(open_source(spec), rows)
    assert (one, str(gone)) == (b"1", "unreadable: the file has only 1 rows now")
    path.write_bytes(b"PAR1")
    assert [found.reason for found in bytes_of(open_source(spec), rows)] == ["unreadable"] * 2
    path.unlink()
    assert [found.reason for found in bytes_of(open_source(spec), rows)] == ["unreadable"] * 2


def test_spans_are_row_groups(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": binary(*[b"1"] * 25)}, row_group_size=10)
    source = source_of(path)
    rows = listed(source)
    assert source.spans(rows) == [(0, 10), (10, 20), (20, 25)]
    assert source.spans(rows.slice(5, 10)) == [(0, 5), (5, 10)]
    assert source.spans(rows.take([3, 7, 5, 12])) == [(0, 2), (2, 3), (3, 4)]
    assert source.spans(rows.slice(0, 0)) == []


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """Images by row, and the rows of two files with small row groups."""
    draw = random.Random(0)
    images = [draw.randbytes(draw.choice([1, 500, 20000])) for _ in range(100)]
    folder = tmp_path_factory.mktemp("parquet")
    write(folder / "a.parquet", {"image": binary(*images[:64])}, row_group_size=7)
    write(folder / "b.parquet", {"image": binary(*images[64:])}, row_group_size=100)
    return images, source_of(folder), listed(source_of(folder))


@settings(deadline=None, max_examples=50)
@given(chosen=st.lists(st.integers(0, 99), min_size=1))
def test_any_rows_in_any_order_give_their_bytes(hundred, chosen):
    images, source, rows = hundred
    rows_give_their_bytes(source, rows, images, chosen)


def test_reading_holds_a_batch_and_no_row_group(tmp_path, monkeypatch):
    images = [random.Random(row).randbytes(20_000) for row in range(1000)]
    path = write(
        tmp_path / "a.parquet",
        {"image": binary(*images)},
        write_batch_size=16,
        use_dictionary=False,
        compression="none",
    )
    monkeypatch.setattr(module, "_BATCH_BYTES", 1 << 18)
    source = source_of(path)
    rows = listed(source)
    before, most = pa.total_allocated_bytes(), 0
    for image, found in zip(images, read(source, rows), strict=True):
        assert found == image
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 << 20 < sum(map(len, images))


@settings(deadline=None, max_examples=30)
@given(name=st.text(string.printable + "ü日", min_size=1))
def test_column_names_of_any_letters(tmp_path_factory, name):
    path = write(tmp_path_factory.mktemp("names") / "a.parquet", {name: binary(b"1"), "label": [1]})
    source = source_of(path)
    assert (source.spec.column, bytes_of(source, listed(source))) == (name, [b"1"])
