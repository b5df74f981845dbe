"""The listing: sorted, complete, counting what it leaves out, clear about sources that are missing or empty."""

import os

import fsspec
import pytest

from icce_ray.adapters.sources import SourceError, list_images, read_image_bytes

KEYS = ["a b.JPG", "b/1.png", "b-2.png", "b.png", "z/ü/日本.jpeg", "z/ü.gif"]


def fill(folder, names, data=b"123"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


@pytest.fixture(params=["local", "memory"])
def source(request, tmp_path):
    names = [*KEYS, "notes.txt", ".hidden.jpg", ".git/x.jpg", ".git/y.jpg", "b/.cache/1.png", "noextension"]
    if request.param == "local":
        return fill(tmp_path / "photos", names)
    store = fsspec.filesystem("memory")
    for name in names:
        store.pipe(f"/{tmp_path.name}/{name}", b"123")
    return f"fsspec+memory://{tmp_path.name}"


def test_keys_are_sorted_and_the_rest_is_counted(source):
    listing = list_images(source)
    assert list(listing) == [(key, 3) for key in sorted(KEYS)]
    assert (listing.images, listing.other, listing.hidden, listing.undecodable) == (6, 2, 3, 0)
    assert all(read_image_bytes(source, key) == b"123" for key in KEYS)


def test_extensions_with_or_without_dot(source):
    assert [key for key, _ in list_images(source, ["PNG", ".gif"])] == ["b-2.png", "b.png", "b/1.png", "z/ü.gif"]


def test_empty_source_says_what_was_seen(source):
    with pytest.raises(SourceError, match=r"0 images among 11 files .*3 hidden.* looked for: \.heic"):
        list(list_images(source, ["heic"]))


def test_missing_source_fails_at_once(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere.*does not exist"):
        list_images(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="does not exist"):
        list_images("fsspec+memory://nowhere/at/all")


def test_a_file_is_no_source(tmp_path):
    fill(tmp_path, ["a.jpg"])
    with pytest.raises(SourceError, match="is a file"):
        list_images(str(tmp_path / "a.jpg"))


def test_no_extensions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="extensions"):
        list_images(str(tmp_path), [])


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "real", ["1.jpg"])
    source = tmp_path / "links"
    source.mkdir()
    (source / "folder").symlink_to(tmp_path / "real")
    (source / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(source / "pipe.jpg")
    listing = list_images(str(source))
    assert list(listing) == [("folder/1.jpg", 3), ("gone.jpg", -1)]
    assert listing.other == 1
    with pytest.raises(FileNotFoundError):
        read_image_bytes(str(source), "gone.jpg")
    (source / "loop").symlink_to(source)
    with pytest.raises(SourceError, match="contains it"):
        list(list_images(str(source)))


def test_names_that_are_not_utf8_are_counted(tmp_path):
    fill(tmp_path, ["a.jpg"])
    try:
        (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    listing = list_images(str(tmp_path))
    assert list(listing) == [("a.jpg", 3)]
    assert listing.undecodable == 1


def test_the_walk_streams(tmp_path):
    fill(tmp_path, ["a/1.jpg", "b/1.jpg"])
    listing = list_images(str(tmp_path))
    assert next(listing) == ("a/1.jpg", 3)
    fill(tmp_path, ["b/2.jpg"])
    assert list(listing) == [("b/1.jpg", 3), ("b/2.jpg", 3)]


def test_compressed_looking_names_are_read_as_they_are(tmp_path):
    fill(tmp_path, ["a.jpg.gz"])
    assert read_image_bytes(str(tmp_path), "a.jpg.gz") == b"123"


@pytest.mark.parametrize("key", ["../secret.jpg", "/etc/passwd", "a//b.jpg", ""])
def test_keys_stay_inside_the_source(tmp_path, key):
    with pytest.raises(ValueError, match="no path below a root"):
        read_image_bytes(str(tmp_path), key)
