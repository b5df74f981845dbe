"""Folders: sorted, complete, counting what is left out, clear about sources that are missing or empty."""

import os
import tempfile

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes, to_text
from icce_ray.io.locations import LocationError
from icce_ray.io.sources import SourceError, SourceSpec, find_source, open_source
from icce_ray.io.sources.walk import LINKS
from tests.failures import fails
from tests.sources import bytes_of

KEYS = ["a b.JPG", "b/1.png", "b-2.png", "b.png", "z/ü/日本.jpeg", "z/ü.gif", r"z\xe9.png"]
PIECES = (
    st.sampled_from([b"\\x", b"5c", b"e9", b"\xe9", b"\\", "é".encode(), b"\xed\xa0\x80", b"a", b"\xff"]) | st.binary()
)
NAMES = (
    st.lists(PIECES, max_size=4)
    .map(b"".join)
    .filter(lambda name: 0 < len(name) < 240 and not name.startswith(b".") and not {0, 47} & set(name))
)


def fill(folder, names, data=b"123"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def found(location):
    return find_source(SourceSpec(str(location)))


def rows(source):
    return [row for table in source.listing() for row in table.to_pylist()]


def listed(source):
    return [(row["uri"], row["size"]) for row in rows(source)]


def read(source, max_bytes=100):
    return [one for table in source.listing() for one in bytes_of(source, table, max_bytes)]


@pytest.fixture(params=["local", "memory"])
def photos(request, tmp_path):
    names = [*KEYS, "notes.txt", ".hidden.jpg", ".git/x.jpg", ".git/y.jpg", "b/.cache/1.png", "noextension"]
    if request.param == "local":
        return fill(tmp_path / "photos", names)
    store = fsspec.filesystem("memory")
    for name in names:
        store.pipe(f"/{tmp_path.name}/{name}", b"123")
    return f"fsspec+memory://{tmp_path.name}"


def test_keys_are_sorted_and_the_rest_is_counted(photos):
    source = found(photos)
    assert source.spec == SourceSpec(photos, format="files")
    assert rows(source) == [
        {"uri": key, "key": key, "size": 3, "container": None, "position": None}
        for key in sorted(to_text(key) for key in KEYS)
    ]
    assert source.left_out == {"other files": 2, "hidden": 3}
    assert read(open_source(source.spec)) == [b"123"] * len(KEYS)


def test_a_digest_is_of_names_and_sizes(tmp_path):
    fill(tmp_path, ["a.jpg", "b.jpg"])
    digests = []
    for change in (lambda: None, lambda: fill(tmp_path, ["notes.txt"]), lambda: fill(tmp_path, ["b.jpg"], b"1234")):
        change()
        source = found(tmp_path)
        assert len(list(source.files())) == 2
        digests.append(source.digest())
    assert digests[0] == digests[1] != digests[2]


def test_empty_source_says_what_was_seen(tmp_path):
    fill(tmp_path, ["a.heic", "b.mp4", ".c.jpg"])
    with fails(SourceError, f"0 images in '{tmp_path}'", "1 hidden, 2 other files", "*.jpg"):
        rows(found(tmp_path))


def test_what_is_no_source_is_said_at_once(tmp_path):
    fill(tmp_path, ["a.jpg"])
    for location in (tmp_path / "nowhere", tmp_path / "a.jpg", "fsspec+memory://nowhere/at/all"):
        with fails(SourceError, location):
            found(location)
    with fails(LocationError, r"caf\xe9", "rename"):
        found(tmp_path / os.fsdecode(b"caf\xe9"))


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "real", ["1.jpg"])
    links = tmp_path / "links"
    links.mkdir()
    (links / "folder").symlink_to(tmp_path / "real")
    (links / "gone.jpg").symlink_to(tmp_path / "nothing")
    (links / "loop").symlink_to(links)
    os.mkfifo(links / "pipe.jpg")
    source = found(links)
    assert listed(source) == [("folder/1.jpg", 3), ("gone.jpg", None)]
    assert source.left_out == {"other files": 1, "link loops": 1}
    data, gone = read(source)
    assert data == b"123"
    assert gone.reason == "unreadable"
    assert "No such file" in gone.detail


@settings(deadline=None, max_examples=60)
@given(names=st.sets(NAMES, min_size=1, max_size=5))
def test_every_name_that_a_disk_can_hold_is_listed_once_and_read(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = os.path.join(os.fsencode(folder), name + b"/" + name + b".png")
            os.makedirs(os.path.dirname(path))
            with open(path, "wb") as file:
                file.write(name)
        source = found(folder)
        assert [uri for uri, _ in listed(source)] == sorted(to_text(name + b"/" + name + b".png") for name in names)
        assert set(read(source, 1000)) == names


@settings(max_examples=300)
@given(name=st.lists(PIECES, max_size=6).map(b"".join), other=st.lists(PIECES, max_size=6).map(b"".join))
def test_shown_names_are_utf8_differ_as_the_names_do_and_lead_back(name, other):
    assert to_bytes(to_text(name).encode().decode()) == name == to_bytes(to_text(os.fsdecode(name)))
    assert (to_text(name) == to_text(other)) == (name == other)


def test_names_stay_as_they_are_where_they_can():
    assert [to_text(name) for name in (b"a\\b%E9.jpg", "ü\\xZZ".encode())] == ["a\\b%E9.jpg", "ü\\xZZ"]
    assert to_text(b"caf\xe9.jpg") == r"caf\xe9.jpg"


def test_a_folder_that_links_lead_to_again_and_again_is_not_listed_for_ever(tmp_path):
    for level in range(30):
        (tmp_path / str(level)).mkdir()
        for link in ("a", "b"):
            (tmp_path / str(level) / link).symlink_to(tmp_path / str(level + 1))
    fill(tmp_path / "30", ["1.jpg"])
    source = found(tmp_path / "0")
    assert len(listed(source)) == LINKS
    assert source.left_out["repeated links"] > 0


def test_a_folder_that_may_not_be_read_is_counted(tmp_path, monkeypatch):
    fill(tmp_path, ["a/1.jpg", "b/1.jpg", "b/c/2.jpg"])
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip("/").endswith(refused):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    refused = "/b"
    source = found(tmp_path)
    assert (listed(source), source.left_out) == ([("a/1.jpg", 3)], {"forbidden folders": 1})
    refused = tmp_path.name
    with fails(SourceError, tmp_path, "Permission denied"):
        found(tmp_path)


def test_the_walk_streams(tmp_path):
    fill(tmp_path, ["a/1.jpg", "b/1.jpg"])
    files = found(tmp_path).files()
    assert next(files) == ("a/1.jpg", 3)
    fill(tmp_path, ["b/2.jpg"])
    assert list(files) == [("b/1.jpg", 3), ("b/2.jpg", 3)]


def test_too_many_bytes_are_not_read(tmp_path):
    fill(tmp_path, ["a.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"0" * 101)
    small, large = read(found(tmp_path))
    assert small == b"123"
    assert isinstance(large, Reject)
    assert (large.reason, large.detail) == ("too_many_bytes", "101 bytes are more than the limit of 100")


@pytest.mark.parametrize("uri", ["../secret.jpg", "/etc/passwd", "a//b.jpg"])
def test_uris_stay_inside_the_source(tmp_path, uri):
    fill(tmp_path / "photos", ["a.jpg"])
    fill(tmp_path, ["secret.jpg"])
    source = found(tmp_path / "photos")
    table = next(source.listing())
    forged = table.set_column(0, "uri", [[uri]])
    (refused,) = bytes_of(source, forged, 100)
    assert refused.reason == "unreadable"
    assert "no path below a root" in refused.detail
