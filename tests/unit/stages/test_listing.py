"""The manifest: every image once, numbered in the order of its key, and a source that changed is seen."""

import pytest

from icce_ray.io.sources import SourceError, SourceSpec, find_source, found_source, open_source
from icce_ray.progress import Progress
from icce_ray.stages import listing
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MANIFEST
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
