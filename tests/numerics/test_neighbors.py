"""Adaptive neighbours against all pairs one by one: every limit, ties, duplicates, shards, blocks, bad rows."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from icce_ray.core import neighbors, products, search
from icce_ray.core.neighbors import Limits, Neighbors, concatenate, default_k_max, merge
from icce_ray.core.search import mine, search_shard, unit_rows
from icce_ray.search.faiss_index import FaissCandidates
from tests.failures import fails


@pytest.fixture(autouse=True, params=[torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def product(request):
    """Whatever the product is computed in, lists are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "product_dtype", lambda _: request.param)
        yield request.param


def lattice(n, dim, seed):
    """Rows with four entries of +-0.5: of length one, and all their products multiples of 0.25, exact in float32."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, dim))
    for row in rows:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return rows


def gaussian(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def all_scores(features):
    """The score of every pair as `rescore` defines it: what decides when float64 would round differently."""
    unit = unit_rows(features)
    n = len(unit)
    crow, cols = torch.arange(0, n * n + 1, n), torch.arange(n).repeat(n)
    return search.rescore(unit, unit, crow, cols).view(n, n).numpy()


def brute_force(scores, limits):
    """The rule of the paper, one image and one pair at a time: [(id, score), ...] of each image."""
    lists = []
    for i, row in enumerate(scores):
        others = sorted((-score, j) for j, score in enumerate(row) if j != i)
        near = [pair for pair in others if -pair[0] >= np.float32(limits.threshold)]
        if len(near) < limits.k_min:
            near = others[: limits.k_min]
        lists.append([(j, -negative) for negative, j in near[: limits.k_max]])
    return lists


def as_lists(found):
    bounds = found.offsets.tolist()
    pairs = list(zip(found.ids.tolist(), found.similarities.tolist(), strict=True))
    return [pairs[a:b] for a, b in pairwise(bounds)]


def sharded(features, n_shards, limits, block_rows=17):
    unit = unit_rows(features)
    edges = torch.linspace(0, len(unit), n_shards + 1).long().tolist()
    blocks = []
    for start in range(0, len(unit), block_rows):
        queries = unit[start : start + block_rows]
        rows = torch.arange(start, start + len(queries))
        parts = [search_shard(queries, unit[a:b], limits, query_rows=rows, first_base=a) for a, b in pairwise(edges)]
        blocks.append(merge(parts, limits))
    return concatenate(blocks)


def same(a, b):
    """Identical to the last bit."""
    return (
        torch.equal(a.offsets, b.offsets)
        and torch.equal(a.ids, b.ids)
        and torch.equal(a.similarities.view(torch.int32), b.similarities.view(torch.int32))
    )


@pytest.mark.parametrize("threshold", [-1.0, -0.25, 0.0, 0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("k_min", "k_max"), [(1, 1), (1, 7), (5, 5), (5, 20), (20, 39), (39, 39), (1, 1000), (60, 90)])
def test_every_limit_with_ties_against_all_pairs(threshold, k_min, k_max):
    rows = lattice(40, 8, seed=1)  # many exact ties, many pairs exactly at the threshold, some duplicates
    found = mine(torch.from_numpy(rows), Limits(threshold, k_min, k_max))
    assert as_lists(found) == brute_force(rows @ rows.T, Limits(threshold, k_min, k_max))
    assert found.offsets.dtype == found.ids.dtype == torch.int64
    assert found.similarities.dtype == torch.float32


@pytest.fixture(params=[torch.float32, torch.float64], ids=["as on CPUs", "as on CUDA"])
def scored(request, monkeypatch):
    """Scores summed as on each device."""
    monkeypatch.setattr(search, "score_dtype", lambda _: request.param)
    monkeypatch.setattr(search, "_SCORED_ELEMENTS", 500)  # some rows of the base at a time
    return request.param


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("k_min", "k_max"), [(1, 100), (3, 10), (10, 10)])
def test_random_features_against_all_pairs_in_float64(threshold, k_min, k_max):
    features = gaussian(60, 24, seed=2) + 0.3
    exact = features.double() / features.double().norm(dim=1, keepdim=True)
    expected = brute_force((exact @ exact.T).numpy(), Limits(threshold, k_min, k_max))
    found = as_lists(mine(features, Limits(threshold, k_min, k_max)))
    for mine_list, exact_list in zip(found, expected, strict=True):
        assert [j for j, _ in mine_list] == [j for j, _ in exact_list]
        assert [s for _, s in mine_list] == pytest.approx([s for _, s in exact_list], abs=3e-7)


def packed(dim):
    """A row and 90 others whose cosines to it are packed around 0.3, closer than a product's rounding."""
    generator = torch.Generator().manual_seed(dim)
    anchor = torch.zeros(dim)
    anchor[0] = 1.0
    cosine = 0.3 + torch.linspace(-4e-7, 4e-7, 90, dtype=torch.float64)
    side = torch.randn(90, dim - 1, dtype=torch.float64, generator=generator)
    side *= ((1 - cosine.square()).sqrt() / side.norm(dim=1))[:, None]
    return torch.cat([anchor[None].double(), torch.cat([cosine[:, None], side], 1)])


@pytest.mark.parametrize("dim", [2, 3, 64, 513])
def test_pairs_within_a_few_ulp_of_the_threshold(dim, scored):
    """Only the defined score may decide."""
    features = packed(dim)
    scores = all_scores(features)
    for k_min, k_max in [(1, 90), (1, 40), (60, 80)]:
        limits = Limits(0.3, k_min, k_max)
        found = mine(features, limits, block_rows=13)
        assert as_lists(found) == brute_force(scores, limits)
        assert same(found, sharded(features, 3, limits))


def test_duplicates_beyond_k_max_go_to_the_lower_ids():
    features = gaussian(40, 16, seed=3)
    features[5:30] = features[5]  # 25 equal rows, k_max is 6
    limits = Limits(0.3, 3, 6)
    found = mine(features, limits, block_rows=7)
    assert as_lists(found) == brute_force(all_scores(features), limits)
    lists = [[j for j, _ in row] for row in as_lists(found)]
    assert lists[5] == [6, 7, 8, 9, 10, 11]
    assert lists[8] == [5, 6, 7, 9, 10, 11]
    assert lists[29] == [5, 6, 7, 8, 9, 10]
    assert same(found, sharded(features, 7, limits))


@pytest.mark.parametrize("dim", [5, 64, 300])
def test_any_number_of_shards_gives_the_same_bits(dim, scored):
    features = gaussian(150, dim, seed=4) + 0.2
    features[70:90] = features[10:30]
    for threshold, k_min, k_max in [(0.3, 5, 40), (-1.0, 1, 149), (1.0, 20, 20), (0.05, 30, 35)]:
        limits = Limits(threshold, k_min, k_max)
        whole = mine(features, limits)
        assert same(whole, sharded(features, 2, limits))
        assert same(whole, sharded(features, 7, limits, block_rows=150))


@pytest.mark.parametrize(("elements", "block_rows"), [(1, 4096), (20, 1), (300, 31), (1234, 31), (2**25, 1)])
def test_any_size_of_blocks_gives_the_same_bits(monkeypatch, elements, block_rows):
    features = gaussian(40, 33, seed=5)
    limits = Limits(0.1, 4, 12)
    whole = mine(features, limits)
    monkeypatch.setattr(search, "BLOCK_ELEMENTS", {"cpu": elements})
    assert same(whole, mine(features, limits, block_rows=block_rows))


@pytest.mark.parametrize("threshold", [-1.0, 0.05, 0.9])
@pytest.mark.parametrize(("k_min", "k_max"), [(1, 2), (5, 8), (60, 61), (2, 150)])
def test_many_blocks_with_full_lists_and_short_ones(monkeypatch, product, threshold, k_min, k_max):
    """Lists that fill up early raise what later blocks must reach; those that stay short lower it."""
    features = gaussian(180, 16, seed=11) + torch.linspace(0, 1, 180)[:, None]
    limits = Limits(threshold, k_min, k_max)
    expected = brute_force(all_scores(features), limits)
    monkeypatch.setattr(search, "BLOCK_ELEMENTS", {"cpu": 50 * 20})
    pruned = []
    prune = search._Search._prune
    monkeypatch.setattr(search._Search, "_prune", lambda self: pruned.append(self) or prune(self))
    assert as_lists(mine(features, limits, block_rows=50)) == expected
    assert pruned or k_max == 150 or threshold == 0.9


@pytest.mark.parametrize("dim", [3, 64, 700])
def test_no_score_is_beyond_the_margin_of_its_product(product, dim):
    unit = unit_rows(gaussian(200, dim, seed=dim))
    scores = torch.from_numpy(all_scores(unit))
    coarse = products.CoarseRows.of(unit)
    assert (coarse.rows.dtype, coarse.error > 0) == (product, product != torch.float32)
    near = coarse.similarities(coarse, slice(0, 200), coarse.rows.new_empty(200 * 200))
    margin = coarse.margin(coarse)
    assert 0 < margin < 0.02
    for row in range(0, 200, 7):
        for cut in (scores[row].amin(), scores[row, 3], scores[row].amax()):
            reached = near.reach(torch.arange(200), torch.full((200,), float(cut) - margin))[row]
            assert reached[scores[row] >= cut].all()
            assert not reached[scores[row] < cut - 2 * margin - 0.01].any()
    for k in (1, 5, 200):
        bound = near.largest(torch.arange(200), k)
        exactly = scores.topk(k, dim=1).values[:, -1]
        assert (bound - margin <= exactly).all()
        assert (bound + margin + 0.02 >= exactly).all()


def everything(base):
    """A search that proposes every pair."""

    def propose(queries, own, _):
        chosen = torch.ones(len(queries), len(base), dtype=torch.bool)
        rows = (own >= 0).nonzero().flatten()
        chosen[rows, own[rows]] = False
        return torch.cat([torch.zeros(1, dtype=torch.int64), chosen.sum(1).cumsum(0)]), chosen.nonzero()[:, 1]

    return propose


def by_faiss(base):
    return FaissCandidates(base.numpy()).propose


@pytest.mark.parametrize("search", [everything, by_faiss])
@pytest.mark.parametrize("features", [packed(33), torch.from_numpy(lattice(90, 8, seed=12))], ids=["packed", "ties"])
def test_another_search_proposes_and_the_core_decides(search, features):
    unit = unit_rows(features)
    rows = torch.arange(len(unit))
    for threshold, k_min, k_max in [(0.3, 1, 90), (0.3, 1, 40), (0.25, 5, 10), (1.0, 20, 20)]:
        limits = Limits(threshold, k_min, k_max)
        parts = [
            search_shard(unit, unit[a:b], limits, query_rows=rows, first_base=a, propose=search(unit[a:b]))
            for a, b in pairwise([0, 31, len(unit)])
        ]
        assert same(merge(parts, limits), mine(features, limits))


def test_half_precision_features_are_their_float32_values():
    features = gaussian(50, 20, seed=6).half()
    limits = Limits(0.2, 3, 9)
    assert same(mine(features, limits), mine(features.float(), limits))


def test_a_pair_has_one_score_in_both_directions():
    scores = all_scores(gaussian(80, 129, seed=7))
    assert np.array_equal(scores, scores.T)
    assert np.abs(scores).max() <= 1.0


@given(data=st.data())
@hypothesis_settings(max_examples=50, deadline=None)
def test_lists_cut_to_limits_are_lists_mined_with_them(data):
    """Ties, duplicates and pairs exactly at the threshold included, whatever the block."""
    n = data.draw(st.integers(2, 45), "n")
    k_max = data.draw(st.integers(1, 50), "k_max")
    k_min = data.draw(st.integers(1, k_max), "k_min")
    steps = [-1.0, -0.5, 0.0, 0.25, 0.3, 0.5, 0.75, 1.0]
    low, high = sorted([data.draw(st.sampled_from(steps)), data.draw(st.sampled_from(steps))])
    wide_k_max = data.draw(st.integers(k_max, 60), "wide k_max")
    wide = Limits(low, data.draw(st.integers(k_min, wide_k_max), "wide k_min"), wide_k_max)
    rows = torch.from_numpy(lattice(n, 8, seed=data.draw(st.integers(0, 5), "seed")))
    mined = mine(rows, wide)
    mined = Neighbors(mined.offsets, mined.ids.int(), mined.similarities)
    limits = Limits(high, k_min, k_max)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_BLOCK_PAIRS", data.draw(st.sampled_from([1, 30, 2**25]), "block"))
        cut = neighbors.apply_limits(mined, limits)
    assert cut.ids.dtype == torch.int32
    assert same(Neighbors(cut.offsets, cut.ids.long(), cut.similarities), mine(rows, limits))


def test_lists_without_similarities_cannot_be_cut():
    mined = mine(gaussian(9, 4, seed=8), Limits(0.0, 2, 8))
    bare = Neighbors(mined.offsets, mined.ids, torch.empty(0))
    with fails(ValueError, "0 similarities", "load them"):
        neighbors.apply_limits(bare, Limits(0.3, 2, 8))
    with fails(ValueError, "k_max = 1", "k_min = 2"):
        neighbors.apply_limits(mined, Limits(0.3, 2, 1))


def test_unit_rows_do_not_depend_on_the_block():
    features = gaussian(40, 77, seed=9) * 100
    unit = unit_rows(features)
    assert torch.equal(unit, unit_rows(features, block_rows=7))
    assert torch.equal(unit, torch.cat([unit_rows(row) for row in features.split(5)]))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(40))


def test_rows_without_a_direction_are_named():
    features = gaussian(20, 4, seed=10)
    features[3] = 0.0
    features[7, 2] = torch.nan
    features[11, 0] = -torch.inf
    with fails(ValueError, "3 of 20", "[3, 7, 11]", "remove"):
        mine(features, Limits(0.3, 1, 5))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((1.5, 1, 2), ["threshold = 1.5", "[-1, 1]"]),
        ((float("nan"), 1, 2), ["threshold = nan"]),
        ((0.3, 0, 2), ["k_min = 0", "at least 1"]),
        ((0.3, 5, 4), ["k_max = 4", "k_min = 5"]),
    ],
)
def test_limits_are_checked(limits, message):
    threshold, k_min, k_max = limits
    with fails(ValueError, *message):
        Limits(threshold, k_min, k_max)


def test_one_image_has_no_neighbours():
    with fails(ValueError, "at least 2"):
        mine(torch.ones(1, 3), Limits(0.3, 1, 1))


def test_default_k_max_is_a_balanced_class():
    assert default_k_max(1000, 7, 50) == 143
    assert default_k_max(1000, 100, 50) == 50


def test_pairs_of_one_class():
    truth = torch.randint(0, 6, (70,), generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([3, 69, 20, 40, 21])
    for first, last in [(0, 70), (15, 40), (40, 41)]:
        own = torch.where((queries >= first) & (queries < last), queries - first, -1)
        crow, cols = search.same_class(truth[queries], truth[first:last], own)
        lists = [cols[a:b].tolist() for a, b in pairwise(crow.tolist())]
        expected = [[j - first for j in range(first, last) if truth[j] == truth[i] and j != i] for i in queries]
        assert lists == expected


def test_recall_counts_the_entries_of_the_exact_lists():
    exact = Neighbors(torch.tensor([0, 3, 3, 5]), torch.tensor([7, 2, 9, 0, 7]), torch.zeros(5))
    found = Neighbors(torch.tensor([0, 2, 3, 5]), torch.tensor([9, 7, 7, 3, 0]), torch.zeros(5))
    assert neighbors.count_shared(found, exact) == (3, 5)
    assert neighbors.count_shared(exact, exact) == (5, 5)


def test_lists_that_are_all_empty():
    empty = Neighbors(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    limits = Limits(0.3, 1, 2)
    merged = merge([empty, empty], limits)
    assert merged.counts.tolist() == [0, 0, 0]
    assert same(merged.to("cpu"), empty)
