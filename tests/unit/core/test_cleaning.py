"""Filters of neighbour lists, held against slow, obvious ones pair by pair."""

import numpy as np
import pytest
import torch

from icce_ray.core import cleaning, neighbors
from icce_ray.core.cleaning import agreeing, kept, mutual, shared
from icce_ray.core.neighbors import Neighbors
from icce_ray.core.search import mine
from icce_ray.core.selection import pair_accuracy
from icce_ray.core.synthetic import FeatureModel, draw
from tests.failures import fails

K_MIN = 3
DRAWN = draw(FeatureModel(n_clusters=8, dim=32), 240, 0)[0]
LISTS = mine(DRAWN.features, threshold=0.2, k_min=K_MIN, k_max=30)
LABELS = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (240, 5)).astype(np.int32))


@pytest.fixture(params=[False, True], ids=["whole", "blocks"])
def blocks(request, monkeypatch):
    """The same in one block and in many."""
    if request.param:
        monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", 100)
        monkeypatch.setattr(cleaning, "_BLOCK_ENTRIES", 7 * 240)
        monkeypatch.setattr(cleaning, "_LABELLED", 13)


def listed(lists):
    return [part.tolist() for part in lists.ids.split(lists.counts.tolist())]


def slow(lists, wanted, k_min):
    """Row by row: the pairs wanted, and the nearest others while there are fewer than k_min."""
    found = []
    for row, ids in enumerate(listed(lists)):
        keep = [other for other in ids if wanted(row, other)]
        others = [other for other in ids if other not in keep]
        keep += others[: max(0, k_min - len(keep))]
        found.append([other for other in ids if other in keep])
    return found


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k_min", [1, K_MIN, 10])
def test_each_filter_is_the_slow_one(k_min):
    near = [set(ids) for ids in listed(LISTS)]
    whole = [near[i] | {i} for i in range(len(near))]

    def common(row, other):
        return len(whole[row] & whole[other]) / min(len(whole[row]), len(whole[other])) >= 0.6

    def agree(row, other):
        return int((LABELS[row] == LABELS[other]).sum()) >= 2

    for found, wanted in (
        (mutual(LISTS, k_min), lambda row, other: row in near[other]),
        (shared(LISTS, 0.6, k_min), common),
        (agreeing(LISTS, LABELS, 0.4, k_min), agree),
    ):
        assert listed(found) == slow(LISTS, wanted, k_min)
        assert 240 * k_min < len(found.ids) < len(LISTS.ids)


def test_similarities_and_types_stay():
    small = Neighbors(LISTS.offsets, LISTS.ids.to(torch.int32), LISTS.similarities)
    known = dict(zip(zip(*pairs(LISTS), strict=True), LISTS.similarities.tolist(), strict=True))
    for found in (mutual(small, 1), shared(small, 0.5, 1), agreeing(small, LABELS, 0.5, 1)):
        assert found.ids.dtype == torch.int32
        assert [known[pair] for pair in zip(*pairs(found), strict=True)] == found.similarities.tolist()
    without = Neighbors(LISTS.offsets, LISTS.ids, torch.empty(0))
    assert len(mutual(without, 1).similarities) == 0


def pairs(lists):
    rows = torch.repeat_interleave(torch.arange(len(lists.counts)), lists.counts)
    return rows.tolist(), lists.ids.tolist()


def test_no_list_gets_shorter_than_k_min_unless_it_was():
    nothing = torch.zeros(len(LISTS.ids), dtype=torch.bool)
    found = kept(LISTS, nothing, 5)
    assert torch.equal(found.counts, LISTS.counts.clamp_max(5))
    assert listed(found) == [ids[:5] for ids in listed(LISTS)]
    assert not nothing.any()
    everything = kept(LISTS, ~nothing, 5)
    assert torch.equal(everything.ids, LISTS.ids)


def test_the_ends_of_the_levels():
    assert torch.equal(shared(LISTS, 0.0, 1).ids, LISTS.ids)
    assert torch.equal(agreeing(LISTS, LABELS, 0.0, 1).ids, LISTS.ids)
    classes = DRAWN.classes[:, None].to(torch.int32)
    assert pair_accuracy(agreeing(LISTS, classes, 1.0, 1), DRAWN.classes) > pair_accuracy(LISTS, DRAWN.classes)


def test_shared_neighbours_are_cleaner_than_their_lists():
    assert pair_accuracy(shared(LISTS, 0.8, 1), DRAWN.classes) > pair_accuracy(LISTS, DRAWN.classes) + 0.02


def test_bad_values_are_named():
    for call in (lambda: mutual(LISTS, 0), lambda: shared(LISTS, 0.5, 0), lambda: agreeing(LISTS, LABELS, 0.5, 0)):
        with fails(ValueError, "k_min = 0"):
            call()
    for call in (lambda: shared(LISTS, 1.5, 1), lambda: agreeing(LISTS, LABELS, 1.5, 1)):
        with fails(ValueError, "level = 1.5"):
            call()
    with fails(ValueError, "(240,)", "240 lists"):
        agreeing(LISTS, LABELS[:, 0], 0.5, 1)
    few = Neighbors(LISTS.offsets[:11], LISTS.ids[: int(LISTS.offsets[10])], torch.empty(0))
    with fails(ValueError, "10 rows", "all rows"):
        mutual(few, 1)
    with fails(ValueError, "CPU"):
        shared(LISTS.to("meta"), 0.5, 1)
