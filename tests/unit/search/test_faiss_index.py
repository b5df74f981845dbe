"""FAISS candidates after the core's re-scoring: the core's own neighbours bit for bit, but for lists not looked at."""

import itertools
import sys

import faiss
import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Limits, concatenate, count_shared, merge
from icce_ray.core.search import mine, search_shard, unit_rows
from icce_ray.search import faiss_index
from icce_ray.search.faiss_index import FaissCandidates, InvertedLists, default_lists, default_probes
from tests.failures import fails

EVERY_LIMIT = [
    Limits(threshold, k_min, k_max) for threshold in (-1.0, 0.3, 1.0) for k_min, k_max in [(1, 1), (5, 50), (10, 10**6)]
]


def clustered(n=300, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, dim))
    return unit_rows(torch.tensor(centres[rng.integers(0, 6, n)] + 0.8 * rng.normal(size=(n, dim))))


@pytest.fixture(autouse=True)
def _one_thread():
    """The searches are tiny: two thread pools waiting for each other would be most of the time."""
    threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads[0])
    torch.set_num_threads(threads[1])


#: Of `duplicates` the k_min-th and the k_max-th are always tied.
SETS = {"clustered": clustered(), "duplicates": clustered(40).repeat(10, 1), "few": clustered(12), "two": clustered(2)}
N = 1000
UNIT = clustered(N)
NOBODY = torch.full((N,), -1)  # no query is a row of the base


def neighbours(make, unit, limits, *, shards=1, block=64):
    """All neighbours, from blocks of queries against shards of the base, as a stage does it."""
    blocks, bounds = [], np.linspace(0, len(unit), shards + 1).astype(int)
    indexes = [(first, unit[first:last], make(unit[first:last].numpy())) for first, last in itertools.pairwise(bounds)]
    for rows in torch.arange(len(unit)).split(block):
        parts = [
            search_shard(unit[rows], base, limits, query_rows=rows, first_base=first, propose=index.propose)
            for first, base, index in indexes
        ]
        blocks.append(merge(parts, limits))
    return concatenate(blocks)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("offsets", "ids", "similarities"))


def all_lists(base):
    return InvertedLists(base, lists=min(20, len(base)), probes=20)


@pytest.mark.parametrize("make", [FaissCandidates, all_lists])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shards", [1, 2])
def test_the_neighbours_are_the_cores(make, name, shards):
    for limits in EVERY_LIMIT:
        found = neighbours(make, unit_rows(SETS[name]), limits, shards=shards)  # as `mine` scales them once more
        assert same(found, mine(SETS[name], limits)), limits


def test_ids_ascend_and_the_query_is_no_candidate():
    unit = clustered()
    crow, cols = FaissCandidates(unit.numpy()).propose(unit[:9], torch.arange(9), Limits(0.3, 5, 50))
    assert (crow.dtype, cols.dtype, len(crow), crow[-1]) == (torch.int64, torch.int64, 10, len(cols))
    for row in range(9):
        ids = cols[crow[row] : crow[row + 1]]
        assert (ids.diff() > 0).all()
        assert row not in ids
    _, cols = FaissCandidates(unit.numpy()).propose(unit[:1], NOBODY[:1], Limits(0.99, 1, 1))
    assert cols.tolist() == [0]


def test_one_search_for_a_row_without_ties(monkeypatch):
    asked, index = [], FaissCandidates(UNIT.numpy())
    search = index._index.search
    monkeypatch.setattr(index._index, "search", lambda rows, k: asked.append((len(rows), k)) or search(rows, k))
    index.propose(UNIT[:50], torch.arange(50), Limits(1.0, 5, 100))
    assert asked == [(50, 14)]


def test_memory_of_one_search_is_bounded(monkeypatch):
    unit = clustered()
    index = FaissCandidates(unit.numpy())
    asked = unit, torch.arange(300), Limits(0.3, 5, 50)
    expected = index.propose(*asked)
    monkeypatch.setattr(faiss_index, "_BLOCK", 100)
    for got, whole in zip(index.propose(*asked), expected, strict=True):
        assert torch.equal(got, whole)


def test_recall_grows_with_the_lists_looked_at():
    limits, recalls = Limits(0.5, 10, 40), []
    exact, index = mine(UNIT, limits), InvertedLists(UNIT.numpy(), lists=25)
    for index.probes in (1, 4, 12, 25):
        found, of = count_shared(neighbours(lambda _: index, UNIT, limits, block=N), exact)
        recalls.append(found / of)
    assert recalls == sorted(set(recalls))
    assert recalls[0] < 0.8
    assert recalls[-1] == 1.0


@pytest.mark.parametrize("k_min", [60, N - 1, 2 * N])
def test_k_min_holds_where_the_lists_looked_at_are_short(k_min):
    index = InvertedLists(UNIT.numpy(), lists=25, probes=1)  # 40 images, more or less
    lists = neighbours(lambda _: index, UNIT, Limits(1.0, k_min, k_min), block=N)
    assert (lists.counts == min(k_min, N - 1)).all()
    rows = torch.repeat_interleave(torch.arange(N), lists.counts)
    assert (rows != lists.ids).all()
    assert len(torch.unique(rows * N + lists.ids)) == len(rows)


def test_the_number_of_threads_changes_nothing():
    """As many as there are lists and queries: whoever rounds differently would choose another centre somewhere."""
    unit, centres, found = clustered(6000, 48), [], []
    for threads in (1, 2, 3):
        index = InvertedLists(unit.numpy(), probes=4, threads=threads)
        centres.append(faiss.downcast_index(index._index.quantizer).reconstruct_n(0, index.lists))
        found.append(neighbours(lambda _, index=index: index, unit, Limits(0.5, 10, 40), block=6000))
    assert np.array_equal(centres[0], centres[1])
    assert np.array_equal(centres[0], centres[2])
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_defaults():
    assert [default_lists(n) for n in (0, 1, 100, 20_000, 131_072, 1_000_000)] == [1, 1, 2, 512, 1448, 4000]
    assert [default_probes(lists) for lists in (1, 20, 512, 1448)] == [1, 16, 64, 181]
    index = InvertedLists(UNIT.numpy())
    assert (index.lists, index.probes) == (default_lists(N), default_probes(default_lists(N)))


@pytest.mark.parametrize("make", [FaissCandidates, InvertedLists])
def test_empty_base_and_no_queries(make):
    limits = Limits(0.3, 1, 2)
    crow, cols = make(UNIT[:0].numpy()).propose(UNIT[:3], NOBODY[:3], limits)
    assert (crow.tolist(), cols.tolist()) == ([0] * 4, [])
    crow, cols = make(UNIT.numpy()).propose(UNIT[:0], NOBODY[:0], limits)
    assert (crow.tolist(), cols.tolist()) == ([0], [])


@pytest.mark.parametrize("make", [FaissCandidates, all_lists])
@pytest.mark.parametrize("name", SETS)
def test_queries_that_need_more_than_a_gpu_gives_are_answered_all_the_same(make, name, monkeypatch):
    """Ties at the last place, or lists that are not looked at: by products with the whole base."""
    unit = unit_rows(SETS[name])

    def limited(base):
        index = make(base)
        index._max_k = min(32, len(base))  # as a GPU's 2,048
        return index

    monkeypatch.setattr(faiss_index, "_BLOCK", 700)  # some queries at a time
    for limits in EVERY_LIMIT:
        assert same(neighbours(limited, unit, limits), mine(SETS[name], limits)), limits


def test_the_indexes_of_a_process_share_the_memory_of_faiss_on_a_gpu(monkeypatch):
    made = []
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: made.append(1) or "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: index, raising=False)
    faiss_index._gpu_resources.cache_clear()
    for make in (FaissCandidates, FaissCandidates, InvertedLists):
        make(UNIT.numpy(), gpu=True)
    faiss_index._gpu_resources.cache_clear()
    assert made == [1]


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with fails(RuntimeError, "icce-ray[faiss]", "icce-ray[gpu]", "neighbors.search=torch"):
        FaissCandidates(UNIT.numpy())
    assert default_probes(default_lists(N)) == 16  # what a plan asks needs no FAISS


@pytest.mark.parametrize("make", [FaissCandidates, InvertedLists])
def test_errors(make):
    unit = clustered(10).numpy()
    for bad in (unit.astype(np.float64), unit[0]):
        with fails(ValueError, "must be float32 [n, D]"):
            make(bad)
    with fails(ValueError, "must be float32 [n, 24]"):
        make(unit).propose(torch.from_numpy(unit[:, :5]), NOBODY[:10], Limits(0.3, 1, 1))


def test_more_lists_than_images_are_an_error():
    with fails(ValueError, "1001 inverted lists of 1000 images; use 1 to 1000"):
        InvertedLists(UNIT.numpy(), lists=1001)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS is built for GPUs")
@pytest.mark.parametrize("make", [FaissCandidates, InvertedLists])
def test_a_gpu_without_support_is_a_clear_error(make):
    with fails(RuntimeError, "built for CPUs;", "pip install 'icce-ray[gpu]'"):
        make(clustered(50).numpy(), gpu=True)
