"""Folders: sorted, complete, counting what is left out, clear about sources that are missing or empty."""

import os

import fsspec
import pytest

from icce_ray.adapters.decode import Reject
from icce_ray.adapters.sources import SourceError, SourceSpec, find_source, open_source

KEYS = ["a b.JPG", "b/1.png", "b-2.png", "b.png", "z/ü/日本.jpeg", "z/ü.gif"]


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
    return [one for table in source.listing() for one in source.read(table, max_bytes=max_bytes)]


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
        {"uri": key, "key": key, "size": 3, "container": None, "position": None} for key in sorted(KEYS)
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
    with pytest.raises(SourceError, match=r"0 images in .*\(1 hidden, 2 other files\).* looked for: \*\.jpg"):
        rows(found(tmp_path))


def test_missing_source_fails_at_once(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere.*does not exist"):
        found(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="does not exist"):
        found("fsspec+memory://nowhere/at/all")


def test_an_image_is_no_source(tmp_path):
    fill(tmp_path, ["a.jpg"])
    with pytest.raises(SourceError, match="is a file"):
        found(tmp_path / "a.jpg")


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


def test_names_that_are_not_utf8_are_counted(tmp_path):
    fill(tmp_path, ["a.jpg"])
    try:
        (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = found(tmp_path)
    assert listed(source) == [("a.jpg", 3)]
    assert source.left_out == {"not UTF-8": 1}


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
    (refused,) = source.read(forged, max_bytes=100)
    assert refused.reason == "unreadable"
    assert "no path below a root" in refused.detail
