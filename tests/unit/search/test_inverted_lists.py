"""Inverted lists: all of them give the exact neighbours, few of them nearly, and k_min always holds."""

import faiss
import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Limits, count_shared
from icce_ray.core.search import mine, search_shard, unit_rows
from icce_ray.search.faiss_index import InvertedLists, default_lists, default_probes
from tests.failures import fails

N = 1000


def clustered(n=N, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim))
    return unit_rows(torch.tensor(centres[rng.integers(0, 12, n)] + 0.7 * rng.normal(size=(n, dim))))


UNIT = clustered()
LIMITS = Limits(0.5, 10, 40)


def neighbours(index, unit=UNIT, limits=LIMITS):
    return search_shard(unit, unit, limits, query_rows=torch.arange(len(unit)), first_base=0, propose=index.propose)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("offsets", "ids", "similarities"))


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 1.0])
@pytest.mark.parametrize(("k_min", "k_max"), [(1, 1), (5, 50), (10, 10**6)])
def test_all_lists_are_an_exact_search(threshold, k_min, k_max):
    limits = Limits(threshold, k_min, k_max)
    for unit in (UNIT, clustered(40).repeat(10, 1), clustered(2)):
        index = InvertedLists(unit.numpy(), lists=min(20, len(unit)), probes=20)
        assert same(neighbours(index, unit, limits), mine(unit, limits))


def test_recall_grows_with_the_lists_looked_at():
    exact, recalls = mine(UNIT, LIMITS), []
    index = InvertedLists(UNIT.numpy(), lists=25)
    for index.probes in (1, 4, 12, 25):
        found, of = count_shared(neighbours(index), exact)
        recalls.append(found / of)
    assert recalls == sorted(set(recalls))
    assert recalls[0] < 0.8
    assert recalls[-1] == 1.0


@pytest.mark.parametrize("k_min", [60, N - 1, 2 * N])
def test_k_min_holds_where_the_lists_looked_at_are_short(k_min):
    index = InvertedLists(UNIT.numpy(), lists=25, probes=1)  # 40 images, more or less
    lists = neighbours(index, limits=Limits(1.0, k_min, k_min))
    assert (lists.counts == min(k_min, N - 1)).all()
    rows = torch.repeat_interleave(torch.arange(N), lists.counts)
    assert (rows != lists.ids).all()
    assert len(torch.unique(rows * N + lists.ids)) == len(rows)


def test_the_number_of_threads_changes_nothing():
    """As many as there are lists and queries: whoever rounds differently would choose another centre somewhere."""
    unit = clustered(6000, 48)
    centres, found = [], []
    for threads in (1, 2, 3):
        index = InvertedLists(unit.numpy(), probes=4, threads=threads)
        centres.append(faiss.downcast_index(index._index.quantizer).reconstruct_n(0, index.lists))
        found.append(neighbours(index, unit))
    assert np.array_equal(centres[0], centres[1])
    assert np.array_equal(centres[0], centres[2])
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_defaults():
    assert [default_lists(n) for n in (0, 1, 100, 20_000, 131_072, 1_000_000)] == [1, 1, 2, 512, 1448, 4000]
    assert [default_probes(lists) for lists in (1, 20, 512, 1448)] == [1, 16, 64, 181]
    index = InvertedLists(UNIT.numpy())
    assert (index.lists, index.probes) == (default_lists(N), default_probes(default_lists(N)))


def test_empty_base_and_no_queries():
    nobody, limits = torch.full((3,), -1), Limits(0.3, 1, 2)
    crow, cols = InvertedLists(UNIT[:0].numpy()).propose(UNIT[:3], nobody, limits)
    assert (crow.tolist(), cols.tolist()) == ([0] * 4, [])
    crow, cols = InvertedLists(UNIT.numpy()).propose(UNIT[:0], nobody[:0], limits)
    assert (crow.tolist(), cols.tolist()) == ([0], [])


def test_errors():
    unit = UNIT.numpy()
    with fails(ValueError, "1001 inverted lists of 1000 images; use 1 to 1000"):
        InvertedLists(unit, lists=1001)
    with fails(ValueError, "must be float32"):
        InvertedLists(unit.astype(np.float64))


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS is built for GPUs")
def test_a_gpu_without_support_is_a_clear_error():
    with fails(RuntimeError, "built for CPUs;", "pip install faiss-gpu-cu12"):
        InvertedLists(UNIT.numpy(), gpu=True)
