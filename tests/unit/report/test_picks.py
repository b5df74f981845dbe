"""Which images stand for a class: streamed picks against sorting everything at once."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.io.storage import FileInfo
from icce_ray.report import picks
from icce_ray.report.picks import KINDS, Labelled, labelled, pick
from icce_ray.store import Store


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
    again = pick(made, Labelled("again", "confidence", tuple(reversed(files)), source.sizes), 4)
    once = pick(made, source, 4)
    np.testing.assert_array_equal(again.ids, once.ids)
    drawn = once.ids[KINDS.index("random")]
    assert abs(drawn.mean() - ids.mean()) < 4 * ids.std() / drawn.size**0.5
    assert (drawn != np.sort(drawn, axis=1)).any()


def test_a_class_with_few_images_shows_them_and_no_more(made):
    table = pa.table({"image_id": [5, 9], "label": [2, 2], "confidence": [0.5, 0.75]})
    info = made.storage.write_table("few/0.parquet", table)
    found = pick(made, Labelled("few", "confidence", (info,), np.array([0, 0, 2])), 3)
    assert found.ids[0].tolist() == [[-1, -1, -1], [-1, -1, -1], [9, 5, -1]]
    assert found.seen.tolist() == [0, 0, 2]
    assert np.isnan(found.mean_share[:2]).all()


def test_of_a_large_run_some_shards_are_looked_at(monkeypatch):
    files = tuple(FileInfo(path=f"{part:04d}", bytes=1, sha256="", rows=1000) for part in range(500))
    monkeypatch.setattr(picks, "LOOKED_AT", 20_000)
    some = list(picks._looked_at(files, 10))
    assert len(some) == 20
    assert (some[0], some[-1]) == (files[0], files[-1])
    gaps = np.diff([int(info.path) for info in some])
    assert gaps.max() - gaps.min() <= 1
    assert len(list(picks._looked_at(files, 1000))) == 100  # at least a hundred images a class
    assert list(picks._looked_at(files[:20], 10)) == list(files[:20])


def test_before_the_classifier_the_consensus_is_shown(tmp_path, made):
    copy = shutil.copytree(made.root, tmp_path / "run")
    shutil.rmtree(copy / "predictions")
    assert labelled(Store(str(copy))).share == "agreement"
    shutil.rmtree(copy / "consensus")
    assert labelled(Store(str(copy))) is None
