"""The images of a page: what fits comes first, what cannot be read says why, and each is there once."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.report import pool as pools
from icce_ray.report.gallery import in_turn, looked_at, pick
from icce_ray.report.labels import labelled
from icce_ray.report.pool import Section, holding, pool, side, thumbnails
from icce_ray.store.artifacts import PREDICTIONS
from jobs.bench.made_run import make_run


def ids_of(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("share", [2.0, 0.5, 0.02])
def test_what_fits_comes_first(made, share):
    wanted = in_turn(pick(looked_at(made, labelled(made)), 7, 3))
    images = RunImages(made)
    every = thumbnails(images, wanted, 32, Progress())
    assert list(every) == wanted.tolist()
    budget = int(share * sum(map(len, every.values())))
    found = thumbnails(images, wanted, 32, Progress(), budget=budget)
    assert sum(map(len, found.values())) <= budget
    assert found == {image_id: every[image_id] for image_id in found}
    if share > 1:
        assert found == every
    else:
        assert 1 <= len(found) <= 1.2 * share * len(wanted) + 1
        places = [wanted.tolist().index(image_id) for image_id in found]
        assert places == sorted(places)
    for data in found.values():
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, max(picture.size)) == ("WEBP", 32)


def test_what_cannot_be_read_says_why(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for row in range(40):
        Image.new("RGB", (50, 20), (row, 0, 0)).save(folder / f"{row:02d}.png")
    store = make_run(str(tmp_path / "run"), str(folder), clusters=2, heads=2, epochs=3)
    (folder / "03.png").unlink()
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:-20] + bytes(20))
    found = thumbnails(RunImages(store), np.arange(8), 16, Progress())
    assert isinstance(found[3], Reject)
    assert found[3].reason == "unreadable"
    assert isinstance(found[4], Reject)
    assert Image.open(io.BytesIO(found[5])).size == (16, 6)
    images = RunImages(store)
    images.embed = images.embed.model_copy(update={"max_pixels": 999})
    assert thumbnails(images, np.arange(5, 6), 16, Progress())[5].reason == "too_many_pixels"  # never decoded


def test_the_side_is_the_largest_that_fits(made):
    images, wanted = RunImages(made), np.arange(100)
    spent = sum(len(data) for data in thumbnails(images, wanted, 160, Progress()).values())
    assert side(images, wanted) == 320
    assert side(images, wanted, budget=spent) == 160
    assert side(images, wanted, budget=1) == 64


def test_every_image_is_there_once_with_its_own_name_and_label(made):
    sections = [Section(None, ids_of(5, 9, 3)), Section(None, ids_of(300, 9, 589))]
    source = labelled(made)
    found = pool(made, source, sections, Progress()).images
    rows = made.storage.read_table(source.files[0].path).to_pylist()
    expected = {row["image_id"]: row for row in rows if row["image_id"] in (3, 5, 9, 300, 589)}
    assert found.keys() == expected.keys()
    for image_id, one in found.items():
        row = expected[image_id]
        assert (one["uri"], one["label"], one["share"]) == (row["uri"], row["label"], round(row["confidence"], 4))
        assert one["picture"]


def test_images_without_room_are_named_or_left_out(made, monkeypatch):
    picture = thumbnails(RunImages(made), ids_of(5), 32, Progress())[5]
    monkeypatch.setattr(pools, "thumbnails", lambda _, wanted, *__: {int(wanted[0]): picture})
    cards, others = Section(None, ids_of(5, 7), unnamed=True), Section(None, ids_of(8, 11))
    found = pool(made, labelled(made), [cards, others], Progress()).images
    assert {image_id: "picture" in one for image_id, one in found.items()} == {5: True, 8: False, 11: False}


def test_pictures_of_few_pixels_are_told_from_photographs(made, tmp_path):
    for width, expected in ((8, True), (100, False)):
        (tmp_path / str(width)).mkdir()
        for row in range(3):
            Image.new("RGB", (width, width // 2), (row, 0, 0)).save(tmp_path / str(width) / f"{row}.png")
        store = make_run(str(tmp_path / f"run{width}"), str(tmp_path / str(width)), clusters=2, heads=2, epochs=3)
        found = pool(store, labelled(store), [Section(None, np.arange(3), large=True)], Progress())
        assert found.icons is expected
        picture = Image.open(io.BytesIO(base64.b64decode(found.images[0]["picture"])))
        assert picture.size == (width, width // 2)  # as large as it was


def test_labels_are_read_only_from_the_shards_that_can_hold_them(made):
    ids = made.storage.read_table(labelled(made).files[0].path)["image_id"].to_pylist()
    files = [FileInfo(path=PREDICTIONS.part(part), rows=59, bytes=0, sha256="") for part in range(10)]
    for place, image_id in enumerate(ids):
        assert files[place // 59] in holding(made, files, ids_of(image_id))
    assert holding(made, files, ids_of(0)) == files[:1]
    assert len(holding(made, files, ids_of(0, 300))) <= 3
    assert holding(made, files, ids_of()) == []


def test_the_nearest_images_are_those_of_the_run_with_a_picture(made):
    found = pool(made, labelled(made), [Section(None, ids_of(5, 11, 300), large=True)], Progress()).images
    lists = {row["image_id"]: row for row in made.storage.read_table("neighbors/part-000000.parquet").to_pylist()}
    for image_id in (5, 11, 300):
        row = lists[image_id]
        pairs = list(zip(row["neighbor_ids"], np.round(row["similarities"], 4).tolist(), strict=True))
        expected = [[other, share] for other, share in pairs[: pools.NEAR] if other in found][: pools.SHOWN_NEAR]
        assert found[image_id]["near"] == [[other, pytest.approx(share, abs=1e-4)] for other, share in expected]
        assert len(expected) >= pools.WANTED_NEAR
    assert all("near" not in one for image_id, one in found.items() if image_id not in (5, 11, 300))
