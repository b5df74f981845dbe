"""The manifest: every image once, numbered in the order of its key, and a source that changed is seen."""

import threading

import pytest

from icce_ray.io.sources import SourceError, SourceSpec, find_source, found_source, open_source
from icce_ray.progress import Progress
from icce_ray.stages import listing
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES, MANIFEST, REJECTS
from tests.failures import fails

NAMES = ["a.png", "a/1.jpg", "a/2.JPG", "b.webp", "é.png"]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    for size, name in enumerate([*NAMES, "notes.txt", ".hidden.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def found(source):
    return find_source(SourceSpec(str(source)))


def listed(source, store, rows_per_shard=2):
    return listing.run(found(source), store, Progress(), rows_per_shard=rows_per_shard)


@pytest.mark.parametrize("rows_per_shard", [1, 2, 5, 100])
def test_images_are_numbered_in_the_order_of_their_keys(source, store, rows_per_shard):
    files, summary = listed(source, store, rows_per_shard)
    tables = [store.storage.read_table(info.path) for info in files]
    assert all(table.schema == MANIFEST.schema() for table in tables)
    assert [row for table in tables for row in table.to_pylist()] == [
        {"image_id": index, "uri": name, "key": name, "size": index, "container": None, "position": None}
        for index, name in enumerate(NAMES)
    ]
    assert [info.path for info in files] == [MANIFEST.part(index) for index in range(len(files))]
    assert all(len(table) == rows_per_shard for table in tables[:-1])
    assert [info.rows for info in files] == [len(table) for table in tables]
    digest = summary.pop("digest")
    assert digest == listed(source, store, 3)[1]["digest"]  # of the images, not of their shards
    kind = {"format": "files", "column": None, "key_column": None}
    assert summary == {"images": 5, "bytes": 10, "left_out": {"other files": 1, "hidden": 1}, "source": kind}
    assert found_source(str(source), summary) == found(source).spec


def test_a_dangling_link_is_listed_and_weighs_nothing(source, store):
    (source / "link.png").symlink_to("nowhere.png")
    _, summary = listed(source, store)
    assert (summary["images"], summary["bytes"]) == (6, 10)


def test_a_source_without_images_is_an_error(tmp_path, store):
    (tmp_path / "empty").mkdir()
    with fails(SourceError, "0 images", "nothing at all"):
        listed(tmp_path / "empty", store)


def test_an_unchanged_source_passes(source, store):
    _, summary = listed(source, store)
    (source / "more notes.txt").write_text("no image")
    listing.check_unchanged(found(source), summary)


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda folder: (folder / "c.png").write_bytes(b""), "6 files"),
        (lambda folder: (folder / "a.png").unlink(), "4 files"),
        (lambda folder: (folder / "a.png").rename(folder / "0.png"), "5 files"),
        (lambda folder: (folder / "a.png").write_bytes(b"xyz"), "5 files"),
    ],
)
def test_a_changed_source_is_named_with_both_ways_out(source, store, change, now):
    _, summary = listed(source, store)
    change(source)
    with fails(RunError, source, now, "5 images", "--out", "--redo list"):
        listing.check_unchanged(found(source), summary)


def test_a_bucket_is_not_listed_twice():
    source = open_source(SourceSpec("fsspec+memory://no-such-bucket/photos", format="files"))
    listing.check_unchanged(source, {"digest": "", "images": 3})


def listed_again(source, store, told):
    """A listing in a thread, and the chunks that are to be embedded, as `Known` is told of them."""

    class Actor:
        class add:
            @staticmethod
            def remote(chunks, over):
                told.extend(chunks)

    images = found(source)
    begun = listing.Listing(images, store, lambda beside: listing.run(images, store, Progress(), 2, beside))
    begun._actor = Actor
    return begun


def test_what_was_embedded_of_an_unfinished_listing_stays_only_where_it_is_listed_again_as_it_was(source, store):
    told = []
    with listed_again(source, store, told) as begun:
        assert begun.ended(None)
    assert told == [0, 1, 2]
    for chunk in range(4):
        for table in (FEATURES, REJECTS):
            store.storage.write_bytes(table.part(chunk), b"made of the first listing")
    store.storage.write_bytes(MANIFEST.part(3), b"of a listing of more images")
    (source / "a" / "2.JPG").write_bytes(b"another length")  # the third of five
    told.clear()
    with listed_again(source, store, told) as begun:
        assert begun.ended(None)
    assert told == [1]
    assert store.parts(FEATURES) == store.parts(REJECTS) == {0, 2}
    assert store.parts(MANIFEST) == {0, 1, 2}


def test_a_listing_that_is_not_wanted_any_more_writes_nothing_more(source, store, monkeypatch):
    reached, gate, tables = threading.Event(), threading.Event(), listing.LISTED.empty_table()

    def slow(self):
        yield tables
        reached.set()
        gate.wait()
        yield from whole(self)

    whole = type(found(source)).listing
    monkeypatch.setattr(type(found(source)), "listing", slow)
    monkeypatch.setattr(listing, "STOP_SECONDS", 0.0)
    with listed_again(source, store, []) as begun:
        reached.wait()
        assert not begun.ended(0)
    gate.set()
    with fails(RunError, "stopped"):
        begun.ended(None)
    assert store.parts(MANIFEST) == set()


def test_what_is_wrong_with_the_source_reaches_whoever_waits_for_its_listing(source, store):
    for path in source.rglob("*.*"):
        path.unlink()
    with listed_again(source, store, []) as begun, fails(SourceError, "0 images"):
        begun.ended(None)
    with listed_again(source, store, []) as begun, fails(SourceError, "0 images"):
        list(begun.checked(iter([begun.ended(None)])))
