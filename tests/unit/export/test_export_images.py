"""Images of a run and of a prediction, read again by image_id."""

import shutil

import numpy as np
import pytest

from icce_ray.adapters.decode import Reject
from icce_ray.adapters.progress import Silent
from icce_ray.adapters.sources import SourceError, SourceSpec, find_source
from icce_ray.export.images import RunImages
from icce_ray.settings import load
from icce_ray.stages import listing
from icce_ray.store import RunError, Store
from tests.forms import write

IMAGES = [(f"{index // 4}/{index:02d}.png", bytes([65 + index]) * (index + 1)) for index in range(11)]
IDS = np.array([10, 0, 7, 3, 4, 9])


def run_of(tmp_path, location, *overrides):
    """A run that has listed its source, three images a shard of the manifest."""
    store = Store(str(tmp_path / "run"))
    store.claim(load({"source": location, "clusters": 2, "out": store.root}, overrides=list(overrides)))
    return listed(store, location)


def listed(store, location):
    files, summary = listing.run(find_source(SourceSpec(location)), store, Silent(), rows_per_shard=3)
    store.commit("list", files, fingerprint="x", summary=summary, seconds=0)
    return store


def prediction_of(tmp_path, location):
    run = run_of(tmp_path, location, "embed.max_bytes=7")
    store = Store(str(tmp_path / "prediction"))
    store.claim_prediction({"run": run.root, "classifier": "c", "source": location})
    return listed(store, location)


def source_of(tmp_path, form="files"):
    folder = tmp_path / "photos"
    return f"{folder}/{write(form, IMAGES, folder)}".rstrip("/")


@pytest.mark.parametrize("form", ["files", "webdataset", "hugging face", "uris"])
def test_the_bytes_of_any_images(tmp_path, form):
    images = RunImages(run_of(tmp_path, source_of(tmp_path, form)))
    assert images.has_pixels
    assert list(images.read(IDS, threads=2)) == [(index, IMAGES[index][1]) for index in sorted(IDS)]
    assert list(images.read(np.array([], np.int64))) == []


def test_rows_come_in_the_order_asked_from_the_shards_that_hold_them(tmp_path):
    store = run_of(tmp_path, source_of(tmp_path))
    store.storage.delete(Store.part("manifest", 1))
    images = RunImages(store)
    rows = images.rows(np.array([10, 0, 7, 0]))
    assert rows.column_names == ["image_id", "uri", "key", "size", "container", "position"]
    assert rows["image_id"].to_pylist() == [10, 0, 7, 0]
    assert rows["key"].to_pylist() == [IMAGES[index][0] for index in (10, 0, 7, 0)]
    assert images.rows(np.array([], np.int64)).schema == rows.schema
    with pytest.raises(FileNotFoundError):
        images.rows(np.array([3]))
    with pytest.raises(RunError, match=r"image_id 11 is not listed in .*: ids are 0 to 10"):
        images.rows(np.array([1, 11]))


def test_images_that_have_gone_or_changed_are_rejects(tmp_path):
    images = RunImages(run_of(tmp_path, source_of(tmp_path), "embed.max_bytes=7"))
    (tmp_path / "photos" / "0" / "01.png").unlink()
    (tmp_path / "photos" / "0" / "02.png").write_bytes(b"other")
    found = dict(images.read(np.arange(11)))
    rejects = {index: str(data) for index, data in found.items() if isinstance(data, Reject)}
    assert rejects[1].startswith("unreadable: FileNotFoundError: ")
    assert rejects[2] == "unreadable: 5 bytes now, 3 when it was listed: replaced"
    assert rejects[7] == "too_many_bytes: 8 bytes are more than the limit of 7"
    assert sorted(rejects) == [1, 2, 7, 8, 9, 10]


def test_a_prediction_reads_its_own_source_as_its_run_did(tmp_path):
    store = prediction_of(tmp_path, source_of(tmp_path))
    assert isinstance(dict(RunImages(store).read(IDS))[7], Reject)
    shutil.rmtree(tmp_path / "run")
    images = RunImages(store)
    assert images.embed.max_bytes == 256 << 20
    assert list(images.read(IDS)) == [(index, IMAGES[index][1]) for index in sorted(IDS)]


def test_features_have_no_pixels(tmp_path):
    np.save(tmp_path / "photos.npy", np.eye(5, dtype=np.float32))
    images = RunImages(run_of(tmp_path, str(tmp_path / "photos.npy")))
    assert not images.has_pixels
    assert images.rows(np.array([4]))["key"].to_pylist() == ["4"]
    with pytest.raises(RunError, match=r"photos.npy holds features: it has no images to read"):
        next(images.read(np.array([4])))


def test_a_source_that_has_gone(tmp_path):
    store = run_of(tmp_path, source_of(tmp_path))
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(SourceError, match=r"^the images of .*run cannot be read any more: .*photos' does not exist"):
        RunImages(store)


def test_neither_a_run_nor_a_prediction(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        RunImages(Store(str(tmp_path)))
