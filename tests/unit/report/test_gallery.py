"""Small pictures: what fits is what comes first in turn, and what cannot be read says why."""

import io

import numpy as np
import pytest
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject
from icce_ray.progress import Progress
from icce_ray.report.gallery import in_turn, side, thumbnails
from icce_ray.report.picks import Picks, labelled, pick
from jobs.bench.made_run import make_run


def test_turns_go_by_rank_then_kind_then_class():
    ids = np.array([[[1, 2], [3, -1]], [[4, 1], [5, 6]]])  # [kinds, classes, n]
    picks = Picks(ids, np.zeros(ids.shape, np.float32), np.zeros(2, np.int64), np.zeros(2))
    assert in_turn(picks).tolist() == [1, 3, 4, 5, 2, 6]


@pytest.mark.parametrize("share", [2.0, 0.5, 0.02])
def test_what_fits_comes_first(made, share):
    wanted = in_turn(pick(made, labelled(made), 3))
    images = RunImages(made)
    every = thumbnails(images, wanted, 32, Progress(), max_pixels=10**6)
    assert list(every) == wanted.tolist()
    budget = int(share * sum(map(len, every.values())))
    found = thumbnails(images, wanted, 32, Progress(), max_pixels=10**6, budget=budget)
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
    found = thumbnails(RunImages(store), np.arange(8), 16, Progress(), max_pixels=10**6)
    assert isinstance(found[3], Reject)
    assert found[3].reason == "unreadable"
    assert isinstance(found[4], Reject)
    assert Image.open(io.BytesIO(found[5])).size == (16, 6)
    # Too many pixels is said, never decoded.
    assert thumbnails(RunImages(store), np.arange(5, 6), 16, Progress(), max_pixels=999)[5].reason == "too_many_pixels"


def test_sides_shrink_with_the_number_of_classes():
    assert side(10) > side(100) > side(1000) >= 64
