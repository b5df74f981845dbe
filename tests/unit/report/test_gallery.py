"""Which images stand for a class."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.report import gallery
from icce_ray.report.gallery import KINDS, Picks, borders, in_turn, looked_at, pick
from icce_ray.report.labels import Labelled, labelled


def whole(store, source):
    table = pa.concat_tables([store.storage.read_table(info.path) for info in source.files])
    return table["image_id"].to_numpy(), table["label"].to_numpy(), table[source.share].to_numpy()


def test_the_picks_are_those_of_sorting_everything(made):
    source = labelled(made)
    found = pick(looked_at(made, source), 7, 4)
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
    names = pa.array(map(str, ids))
    table = pa.table({"image_id": ids, "uri": names, "key": names, "label": label, "confidence": share})
    files = [made.storage.write_table(f"again/{part}.parquet", table.slice(part * 37, 37)) for part in range(17)]
    again = pick(looked_at(made, Labelled("confidence", files[::-1], source.sizes)), 7, 4)
    once = pick(looked_at(made, source), 7, 4)
    np.testing.assert_array_equal(again.ids, once.ids)
    drawn = once.ids[KINDS.index("random")]
    assert abs(drawn.mean() - ids.mean()) < 4 * ids.std() / drawn.size**0.5
    assert (drawn != np.sort(drawn, axis=1)).any()


def test_a_class_with_few_images_shows_them_and_no_more():
    found = pick(pa.table({"image_id": [5, 9], "label": [2, 2], "share": [0.5, 0.75]}), 3, 3)
    assert found.ids[0].tolist() == [[-1, -1, -1], [-1, -1, -1], [9, 5, -1]]
    assert found.seen.tolist() == [0, 0, 2]
    assert np.isnan(found.mean_share[:2]).all()


def test_covers_come_first_then_rank_kind_and_class(monkeypatch):
    monkeypatch.setattr(gallery, "COVER", 2)
    ids = np.array([[[1, 2, 7], [3, -1, -1]], [[4, 1, 8], [5, 6, -1]]])  # [kinds, classes, n]
    picks = Picks(ids, np.zeros(ids.shape, np.float32), np.zeros(2, np.int64), np.zeros(2))
    assert in_turn(picks).tolist() == [1, 3, 2, 4, 5, 6, 7, 8]


def test_a_border_has_the_most_torn_images_of_both_sides():
    rows = [  # image_id, label, runner-up, its chance
        *[(0, 0, 1, 0.1), (1, 0, 1, 0.4), (2, 0, 2, 0.45), (3, 0, 1, 0.2)],
        *[(4, 1, 0, 0.3), (5, 1, 2, 0.4), (6, 2, 1, 0.1)],
    ]
    names = ("image_id", "label", "runner_up", "runner_up_share")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    near = [[(1, 0.5)], [(0, 0.5), (2, 0.1)], [(0, 0.2)], []]
    assert borders(table, near, 2) == {0: (1, [1, 3], [4]), 1: (0, [4], [1, 3]), 2: (0, [], [2])}
    without = table.set_column(2, "runner_up", pa.nulls(len(rows), pa.int32()))
    assert borders(without, near, 2) == {}
