"""Which images stand for a class, and their small pictures: what fits comes first, what cannot be read says why."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject
from icce_ray.progress import Progress
from icce_ray.report.gallery import KINDS, Picks, in_turn, pick, side, thumbnails
from icce_ray.report.labels import Labelled, labelled
from jobs.bench.made_run import make_run


def whole(store, source):
    table = pa.concat_tables([store.storage.read_table(info.path) for info in source.files])
    return table["image_id"].to_numpy(), table["label"].to_numpy(), table[source.share].to_numpy()


def test_the_picks_are_those_of_sorting_everything(made):
    source = labelled(made)
    found = pick(made, source, 4)
    ids, label, share = whole(made, source)
    assert source.share == "confidence"
    assert found.ids.shape == (len(KINDS), 7, 4)
    for one in range(7):
        mine = np.flatnonzero(label == one)
        typical = mine[np.lexsort((ids[mine], -share[mine]))][:4]
        doubtful = mine[np.lexsort((ids[mine], share[mine]))][:4]
        assert found.ids[KINDS.index("typical"), one].tolist() == ids[typical].tolist()
        assert found.ids[KINDS.index("least certain"), one].tolist() == ids[doubtful].tolist()
        np.testing.assert_array_equal(found.shares[KINDS.index("least certain"), one], share[doubtful])
        assert set(found.ids[KINDS.index("random"), one]) <= set(ids[mine].tolist())
        assert found.mean_share[one] == pytest.approx(share[mine].mean(), rel=1e-6)
    np.testing.assert_array_equal(found.seen, np.bincount(label, minlength=7))
    np.testing.assert_array_equal(found.seen, source.sizes)


def test_shards_do_not_matter_and_random_is_neither_first_nor_sure(made):
    source = labelled(made)
    ids, label, share = whole(made, source)
    table = pa.table({"image_id": ids, "label": label, "confidence": share})
    files = [made.storage.write_table(f"again/{part}.parquet", table.slice(part * 37, 37)) for part in range(17)]
    again = pick(made, Labelled("confidence", files[::-1], source.sizes), 4)
    once = pick(made, source, 4)
    np.testing.assert_array_equal(again.ids, once.ids)
    drawn = once.ids[KINDS.index("random")]
    assert abs(drawn.mean() - ids.mean()) < 4 * ids.std() / drawn.size**0.5
    assert (drawn != np.sort(drawn, axis=1)).any()


def test_a_class_with_few_images_shows_them_and_no_more(made):
    table = pa.table({"image_id": [5, 9], "label": [2, 2], "confidence": [0.5, 0.75]})
    info = made.storage.write_table("few/0.parquet", table)
    found = pick(made, Labelled("confidence", [info], np.array([0, 0, 2])), 3)
    assert found.ids[0].tolist() == [[-1, -1, -1], [-1, -1, -1], [9, 5, -1]]
    assert found.seen.tolist() == [0, 0, 2]
    assert np.isnan(found.mean_share[:2]).all()


def test_turns_go_by_rank_then_kind_then_class():
    ids = np.array([[[1, 2], [3, -1]], [[4, 1], [5, 6]]])  # [kinds, classes, n]
    picks = Picks(ids, np.zeros(ids.shape, np.float32), np.zeros(2, np.int64), np.zeros(2))
    assert in_turn(picks).tolist() == [1, 3, 4, 5, 2, 6]


@pytest.mark.parametrize("share", [2.0, 0.5, 0.02])
def test_what_fits_comes_first(made, share):
    wanted = in_turn(pick(made, labelled(made), 3))
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


def test_sides_shrink_with_the_number_of_classes():
    assert side(10) > side(100) > side(1000) >= 64
