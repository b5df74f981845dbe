"""Images of a run and of a prediction, read again by image_id; their endings are those of their bytes."""

import io
import shutil
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from icce_ray.export.images import HEAD, RunImages, ending_of
from icce_ray.io.decode import Reject
from icce_ray.io.sources import SourceError
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import MANIFEST
from tests.failures import fails
from tests.forms import write
from tests.labelled_runs import prediction_of, run_of
from tests.pictures import files

IMAGES = [(f"{index // 4}/{index:02d}.png", bytes([65 + index]) * (index + 1)) for index in range(11)]
FILES = files()
IDS = np.array([10, 0, 7, 3, 4, 9])


def source_of(tmp_path, form="files"):
    folder = tmp_path / "photos"
    return f"{folder}/{write(form, IMAGES, folder)}".rstrip("/")


@pytest.mark.parametrize("form", ["files", "webdataset", "hugging face", "uris"])
def test_the_bytes_of_any_images(tmp_path, form):
    images = RunImages(run_of(tmp_path / "run", source_of(tmp_path, form)))
    assert images.has_pixels
    assert list(images.read(IDS, threads=2)) == [(index, IMAGES[index][1]) for index in sorted(IDS)]
    assert list(images.read(np.array([], np.int64))) == []


def test_rows_come_in_the_order_asked_from_the_shards_that_hold_them(tmp_path):
    store = run_of(tmp_path / "run", source_of(tmp_path))
    store.storage.delete(MANIFEST.part(1))
    images = RunImages(store)
    rows = images.rows(np.array([10, 0, 7, 0]))
    assert rows.column_names == ["image_id", "uri", "key", "size", "container", "position"]
    assert rows["image_id"].to_pylist() == [10, 0, 7, 0]
    assert rows["key"].to_pylist() == [IMAGES[index][0] for index in (10, 0, 7, 0)]
    assert images.rows(np.array([], np.int64)).schema == rows.schema
    with pytest.raises(FileNotFoundError):
        images.rows(np.array([3]))
    with fails(RunError, "image_id 11", "0 to 10"):
        images.rows(np.array([1, 11]))


def test_images_that_have_gone_or_changed_are_rejects(tmp_path):
    images = RunImages(run_of(tmp_path / "run", source_of(tmp_path), "embed.max_bytes=7"))
    (tmp_path / "photos" / "0" / "01.png").unlink()
    (tmp_path / "photos" / "0" / "02.png").write_bytes(b"other")
    found = dict(images.read(np.arange(11)))
    rejects = {index: str(data) for index, data in found.items() if isinstance(data, Reject)}
    assert rejects[1].startswith("unreadable: FileNotFoundError: ")
    assert rejects[2] == "unreadable: 5 bytes now, 3 when it was listed: replaced"
    assert rejects[7] == "too_many_bytes: 8 bytes are more than the limit of 7"
    assert sorted(rejects) == [1, 2, 7, 8, 9, 10]


def test_a_prediction_reads_its_own_source_as_its_run_did(tmp_path):
    source = source_of(tmp_path)
    store = prediction_of(tmp_path / "prediction", run_of(tmp_path / "run", source, "embed.max_bytes=7"), source)
    assert isinstance(dict(RunImages(store).read(IDS))[7], Reject)
    shutil.rmtree(tmp_path / "run")
    images = RunImages(store)
    assert images.embed.max_bytes == 256 << 20
    assert list(images.read(IDS)) == [(index, IMAGES[index][1]) for index in sorted(IDS)]


def test_links_lead_to_files_as_they_were_listed(tmp_path):
    images = RunImages(run_of(tmp_path / "run", source_of(tmp_path)))
    (tmp_path / "photos" / "0" / "03.png").unlink()
    (tmp_path / "photos" / "1" / "04.png").write_bytes(b"other")
    (tmp_path / "photos" / "1" / "07.png").write_bytes(b"other bytes")
    assert (images.can_link, len(images)) == (True, 11)
    found = dict(images.link(IDS))
    assert {index: str(found[index]) for index in (0, 9, 10)} == {
        index: str(tmp_path / "photos" / IMAGES[index][0]) for index in (0, 9, 10)
    }
    assert str(found[3]).startswith("unreadable: there is no file ")
    assert str(found[7]) == "unreadable: 11 bytes now, 8 when it was listed: replaced"
    assert not isinstance(found[4], Reject)  # as many bytes as before: not looked at


@pytest.mark.parametrize("form", ["one tar", "uris"])
def test_only_files_of_a_folder_can_be_linked(tmp_path, form):
    assert not RunImages(run_of(tmp_path / "run", source_of(tmp_path, form))).can_link


def test_features_have_no_pixels(tmp_path):
    np.save(tmp_path / "photos.npy", np.eye(5, dtype=np.float32))
    images = RunImages(run_of(tmp_path / "run", str(tmp_path / "photos.npy")))
    assert not images.has_pixels
    assert images.rows(np.array([4]))["key"].to_pylist() == ["4"]
    with fails(RunError, "photos.npy", "features"):
        next(images.read(np.array([4])))


def test_a_source_that_has_gone(tmp_path):
    store = run_of(tmp_path / "run", source_of(tmp_path))
    shutil.rmtree(tmp_path / "photos")
    with fails(SourceError, "run", "photos", "does not exist"):
        RunImages(store)


def test_neither_a_run_nor_a_prediction(tmp_path):
    with fails(RunError, "not a run"):
        RunImages(Store(str(tmp_path)))


@pytest.mark.parametrize("name", FILES)
def test_every_format_has_an_ending(name):
    head = FILES[name][:HEAD]
    assert ending_of(head, name.upper()) == PurePath(name).suffix
    assert ending_of(head, "no ending") == ending_of(head, "wrong.svg")
    Image.init()
    wanted = str(Image.open(io.BytesIO(FILES[name])).format)
    assert Image.EXTENSION[ending_of(head, "")] == wanted.replace("MPO", "JPEG")


@pytest.mark.parametrize("head", [b"", b"<html>", b"RIFF0000WAVE", b"%PDF-1.7"])
def test_what_is_no_image_is_rejected(head):
    with fails(Reject, "not_an_image"):
        ending_of(head, "a.png")
