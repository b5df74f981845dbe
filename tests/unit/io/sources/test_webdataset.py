"""Images in tars: every member listed once or counted, damage never silent, the same bytes however rows are split."""

import gzip
import io
import random
import tarfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.decode import Reject
from icce_ray.io.sources import SourceError, SourceSpec
from icce_ray.io.sources import webdataset as module
from icce_ray.io.sources.webdataset import TarSource
from tests.failures import fails
from tests.forms import write_tar
from tests.sources import bytes_of, listed, rows_give_their_bytes

END = bytes(1024)


def source_of(folder):
    return TarSource(SourceSpec(str(folder), "webdataset"))


def member(name, data=b"", *, kind=tarfile.REGTYPE, form=tarfile.PAX_FORMAT, link=""):
    """A member as it stands in a tar, header and data."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def test_rows_are_members_in_the_order_of_the_file(tmp_path):
    write_tar(tmp_path / "b.tar", [("2.jpg", b"two"), ("1.png", b"one"), ("1.cls", b"7")])
    write_tar(tmp_path / "a.tar", [("x/9.JPEG", b"nine" * 200)])
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows.to_pylist() == [
        {"uri": "a.tar/x/9.JPEG", "key": "x/9.JPEG", "size": 800, "container": "a.tar", "position": 512},
        {"uri": "b.tar/2.jpg", "key": "2.jpg", "size": 3, "container": "b.tar", "position": 512},
        {"uri": "b.tar/1.png", "key": "1.png", "size": 3, "container": "b.tar", "position": 1536},
    ]
    assert bytes_of(source, rows) == [b"nine" * 200, b"two", b"one"]
    assert source.left_out == {"other members": 1}
    assert list(source_of(tmp_path).files()) == [("a.tar", 10240), ("b.tar", 10240)]


def test_one_tar_is_named_by_its_file(tmp_path):
    write_tar(tmp_path / "all.tar", [("1.jpg", b"one")])
    source = source_of(tmp_path / "all.tar")
    rows = listed(source)
    assert rows.to_pylist() == [{"uri": "all.tar/1.jpg", "key": "1.jpg", "size": 3, "container": "", "position": 512}]
    assert bytes_of(source, rows) == [b"one"]
    assert list(source_of(tmp_path / "all.tar").files()) == [("all.tar", 10240)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path, form):
    names = ["ü" * 90 + "/" + "日" * 80 + ".jpg", "s.jpg", "x" * 300 + ".jpg"]
    (tmp_path / "a.tar").write_bytes(b"".join(member(name, name.encode(), form=form) for name in names) + END)
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows["key"].to_pylist() == names
    assert bytes_of(source, rows) == [name.encode() for name in names]


def test_what_is_no_image_is_counted(tmp_path):
    members = [
        *(member("./", kind=tarfile.DIRTYPE), member("./1.jpg", b"1"), member("./._1.jpg", b"mac")),
        *(member("folder.jpg", kind=tarfile.DIRTYPE), member(".hidden/2.jpg", b"2"), member("notes.txt", b"text")),
        *(
            member("soft.jpg", kind=tarfile.SYMTYPE, link="1.jpg"),
            member("hard.jpg", kind=tarfile.LNKTYPE, link="1.jpg"),
        ),
        *(member("pipe.jpg", kind=tarfile.FIFOTYPE), member(b"\xff.jpg".decode("utf-8", "surrogateescape"), b"name")),
    ]
    (tmp_path / "a.tar").write_bytes(b"".join(members) + END)
    (tmp_path / "a.json").write_text("{}")
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows["key"].to_pylist() == ["./1.jpg", r"\xff.jpg"]
    assert bytes_of(source, rows) == [b"1", b"name"]
    assert source.left_out == {"links": 2, "hidden": 2, "other members": 2, "other files": 1}


def test_sparse_members_are_counted(tmp_path):
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.jpg", "GNU.sparse.realsize": "4096"}
    info = tarfile.TarInfo("GNUSparseFile.0/s.jpg")
    info.size, info.pax_headers = 512, pax
    sparse = info.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(sparse + member("1.jpg", b"1") + END)
    source = source_of(tmp_path)
    assert listed(source)["key"].to_pylist() == ["1.jpg"]
    assert source.left_out == {"sparse members": 1}


def test_a_name_that_stands_twice_is_listed_twice(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.jpg", b"old"), ("1.jpg", b"new")])
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows["uri"].to_pylist() == ["a.tar/1.jpg"] * 2
    assert bytes_of(source, rows) == [b"old", b"new"]


def test_tars_behind_each_other_are_read_to_the_end(tmp_path):
    first = member("1.jpg", b"1") + END + bytes(8192)
    (tmp_path / "a.tar").write_bytes(first + member("2.jpg", b"2") + END + member("3.jpg", b"3") + END)
    source = source_of(tmp_path)
    rows = listed(source)
    assert (rows["key"].to_pylist(), bytes_of(source, rows)) == (["1.jpg", "2.jpg", "3.jpg"], [b"1", b"2", b"3"])


def test_an_empty_tar_holds_nothing_and_hides_nothing(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    with fails(SourceError, "0 images", "no member with an image's ending"):
        listed(source_of(tmp_path))
    write_tar(tmp_path / "b.tar", [("1.jpg", b"1")])
    assert listed(source_of(tmp_path))["uri"].to_pylist() == ["b.tar/1.jpg"]


def test_no_tar_at_all(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with fails(SourceError, "no such file (1 other files)", "*.tar"):
        listed(source_of(tmp_path))


WHOLE = member("1.jpg", b"1" * 600) + member("2.jpg", b"2" * 600) + END


@pytest.mark.parametrize("length", range(0, len(WHOLE), 128))
def test_a_tar_that_was_cut_is_listed_up_to_there_and_then_rejected(tmp_path, length):
    write_tar(tmp_path / "good.tar", [("1.jpg", b"1")])
    (tmp_path / "cut.tar").write_bytes(WHOLE[:length])
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows["key"].to_pylist()[-1] == "1.jpg"
    found = dict(zip(rows["uri"].to_pylist(), bytes_of(source, rows), strict=True))
    assert found.pop("good.tar/1.jpg") == b"1"
    if length < len(WHOLE) - 512:  # one block of zeros is an end marker too
        reject = found.pop("cut.tar")
        assert reject.reason == "truncated"
        assert f"byte {length} " in reject.detail
    for name, data in found.items():
        number = name[-5].encode()
        whole = 512 + 600 if number == b"1" else 1536 + 512 + 600
        assert data == number * 600 if length >= whole else data.reason == "truncated"
    assert [f"cut.tar/{n}.jpg" in found for n in (1, 2)] == [length >= 512, length >= 1536 + 512]


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (gzip.compress(WHOLE), "format_not_allowed", "compressed with gzip"),
        (b"<html>" * 200, "decode_error", "byte 0 of"),
        (member("1.jpg", b"1") + b"garbage!" * 200, "decode_error", "byte 1024 of"),
        (member("1.jpg", b"1") + END + b"garbage!" * 200, "decode_error", "byte 2048 of"),
    ],
)
def test_what_is_no_tar_is_rejected_with_a_reason(tmp_path, content, reason, detail):
    (tmp_path / "a.tar").write_bytes(content)
    write_tar(tmp_path / "b.tar", [("1.jpg", b"1")])
    source = source_of(tmp_path)
    rows = listed(source)
    row = rows["uri"].to_pylist().index("a.tar")
    reject = bytes_of(source, rows)[row]
    assert (rows["size"][row].as_py(), reject.reason) == (None, reason)
    assert detail in reject.detail


def sized(size):
    """A header that announces any size, in base 256."""
    data = bytearray(tarfile.TarInfo("2.jpg").tobuf(tarfile.GNU_FORMAT))
    data[124:136] = bytes([0xFF if size < 0 else 0x80]) + (size % 256**11).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def extended(record, count=1):
    """Headers of type pax that say one thing of the member behind them."""
    record = b"%d %s" % (len(record) + 4, record)
    return member("x", record, kind=tarfile.XHDTYPE) * count


@pytest.mark.parametrize(
    "header",
    [
        extended(b"path=a.jpg\n", 3000),
        member("././@LongLink", b"a.jpg\0", kind=tarfile.GNUTYPE_LONGNAME, form=tarfile.GNU_FORMAT) * 3000,
        extended(b"size=-5\n"),
        extended(b"comment=" + bytes(2 << 20) + b"\n"),
        *map(sized, (2**63 - 1, 2**63, 2**70, -256, -(2**62))),
    ],
    ids=[*("chained pax", "chained names", "pax size", "long header", "2^63 - 1", "2^63", "2^70", "-256", "-2^62")],
)
def test_hostile_headers_cost_the_tar_its_rest_and_nothing_else(tmp_path, header):
    (tmp_path / "a.tar").write_bytes(member("1.jpg", b"1") + header + member("3.jpg", b"3") + END)
    write_tar(tmp_path / "b.tar", [("1.jpg", b"1")])
    source = source_of(tmp_path)
    rows = listed(source)
    assert rows["uri"].to_pylist() == ["a.tar/1.jpg", "a.tar", "b.tar/1.jpg"]
    one, reject, other = bytes_of(source, rows)
    assert (one, reject.reason, other) == (b"1", "decode_error", b"1")
    assert "at byte 1024 of" in reject.detail


def test_nothing_but_damage_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(WHOLE))
    with fails(SourceError, "0 images", "a.tar: format_not_allowed: compressed with gzip"):
        listed(source_of(tmp_path))


def test_damaged_headers_end_in_rows_or_rejects_only(tmp_path):
    """Random bytes over a real tar: no other exception, no endless loop, and whatever is lost leaves a trace."""
    whole = (
        b"".join(member(f"{n}.jpg", bytes([n]) * 700, form=n % 3) for n in range(6)) + member("ü" * 200 + ".jpg") + END
    )
    draw = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            data[draw.randrange(len(data))] = draw.choice([0, 0xFF, 0x80, 0x2D, draw.randrange(256)])
        (tmp_path / "a.tar").write_bytes(data)
        source = source_of(tmp_path)
        try:
            rows = listed(source)
        except SourceError:
            continue
        assert len(rows) + sum(source.left_out.values()) >= 1
        traced = len(rows) + sum(source.left_out.values()) >= 7 or "a.tar" in rows["uri"].to_pylist()
        assert traced, bytes(data)
        assert all(isinstance(found, bytes | Reject) for found in bytes_of(source, rows))


def test_members_that_cannot_be_used_are_rejected_in_their_place(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.jpg", b"1"), ("2.jpg", b""), ("3.jpg", b"3" * 11), ("4.jpg", b"4" * 10)])
    source = source_of(tmp_path)
    rows = listed(source)
    one, empty, large, four = bytes_of(source, rows, limit=10)
    assert (one, four) == (b"1", b"4" * 10)
    assert (empty.reason, large.reason) == ("empty", "too_many_bytes")
    (tmp_path / "a.tar").unlink()
    assert [found.reason for found in bytes_of(source, rows)] == ["unreadable"] * 4


def test_spans_join_what_lies_close(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GAP", 2048)
    monkeypatch.setattr(module, "SPAN", 8192)
    sizes = [("1.jpg", 100), ("2.jpg", 100), ("x.bin", 5000), ("3.jpg", 9000), ("4.jpg", 3000), ("5.jpg", 3000)]
    write_tar(tmp_path / "a.tar", [(name, bytes(size)) for name, size in sizes])
    write_tar(tmp_path / "b.tar", [("6.jpg", b"6")])
    rows = listed(source_of(tmp_path))
    assert source_of(tmp_path).spans(rows) == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert source_of(tmp_path).spans(rows.slice(1, 1)) == [(0, 1)]
    assert source_of(tmp_path).spans(rows.slice(0, 0)) == []


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Images by row, and the rows of two tars that hold them."""
    draw = random.Random(0)
    images = [(f"{n:03d}.jpg", draw.randbytes(draw.choice([1, 511, 512, 5000]))) for n in range(40)]
    folder = tmp_path_factory.mktemp("tars")
    write_tar(folder / "a.tar", images[:25])
    write_tar(folder / "b.tar", images[25:])
    return [data for _, data in images], source_of(folder), listed(source_of(folder))


@settings(deadline=None, max_examples=50)
@given(chosen=st.lists(st.integers(0, 39), min_size=1))
def test_any_rows_in_any_order_give_their_bytes(forty, chosen):
    images, source, rows = forty
    rows_give_their_bytes(source, rows, images, chosen)


def test_more_members_than_a_table_and_a_listing_left_early(tmp_path):
    for tar in range(20):
        write_tar(tmp_path / f"{tar:02d}.tar", [(f"{n:04d}.jpg", b"1") for n in range(300)])
    rows = listed(source_of(tmp_path))
    assert rows["uri"].to_pylist() == [f"{tar:02d}.tar/{n:04d}.jpg" for tar in range(20) for n in range(300)]
    before = threading.active_count()
    listing = source_of(tmp_path).listing()
    assert len(next(listing)) == 300
    listing.close()
    assert threading.active_count() == before


def test_on_a_store_small_members_come_with_few_requests_and_large_ones_are_jumped_over(s3_server):
    bucket = s3_server.bucket()
    draw = random.Random(0)
    small = [(f"{n:04d}.jpg", draw.randbytes(2000)) for n in range(1000)]
    large = [(f"{n}.jpg", draw.randbytes(3 << 20)) for n in range(4)]
    for name, images in [("small", small), ("large", large)]:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for key, data in images:
                info = tarfile.TarInfo(key)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        s3_server.client.put_object(Bucket=bucket, Key=f"tars/{name}.tar", Body=file.getvalue())
    source = TarSource(SourceSpec(s3_server.uri(f"{bucket}/tars"), "webdataset"))
    rows = listed(source)
    assert list(zip(rows["key"].to_pylist(), bytes_of(source, rows, 4 << 20), strict=True)) == [*large, *small]
    assert source.spans(rows) == [(0, 4), (4, 1004)]
    for name, requests, fraction in [("small", 10, 1.1), ("large", 6, 0.05)]:
        file = source.open(f"{name}.tar", least=module._LEAST, most=module._MOST)
        asked, read = [], file.read_at

        def read_at(position, size, asked=asked, read=read):
            asked.append(len(data := read(position, size)))
            return data

        file.read_at = read_at
        assert len(list(module._headers(file))) in (4, 1000)
        assert len(asked) <= requests
        assert sum(asked) <= fraction * file.size + 512
