"""FAISS candidates: after the core's re-scoring, the same neighbours as the core's own search, bit for bit."""

import itertools

import faiss
import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Limits, concatenate, merge
from icce_ray.core.search import mine, search_shard, unit_rows
from icce_ray.search import faiss_index
from icce_ray.search.faiss_index import FaissCandidates
from tests.failures import fails


def clustered(n=300, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, dim))
    return unit_rows(torch.tensor(centres[rng.integers(0, 6, n)] + 0.8 * rng.normal(size=(n, dim))))


def duplicates():
    """Forty different rows, ten times each: the k_min-th and the k_max-th are always tied."""
    return clustered(40).repeat(10, 1)


@pytest.fixture(autouse=True)
def _one_thread():
    """The searches are tiny: two thread pools waiting for each other would be most of the time."""
    threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads[0])
    torch.set_num_threads(threads[1])


SETS = {"clustered": clustered(), "duplicates": duplicates(), "few": clustered(12), "two": clustered(2)}
NOBODY = torch.full((300,), -1)  # no query is a row of the base


def by_faiss(unit, limits, *, shards=1, block=64):
    """All neighbours from FAISS candidates: blocks of queries against shards of the base, as a stage does it."""
    n, blocks = len(unit), []
    bounds = np.linspace(0, n, shards + 1).astype(int)
    indexes = [(first, unit[first:last]) for first, last in itertools.pairwise(bounds)]
    indexes = [(first, base, FaissCandidates(base.numpy())) for first, base in indexes]
    for start in range(0, n, block):
        queries, parts = unit[start : start + block], []
        for first, base, index in indexes:
            rows = torch.arange(start, start + len(queries))
            options = {"query_rows": rows, "first_base": first, "propose": index.propose}
            parts.append(search_shard(queries, base, limits, **options))
        blocks.append(merge(parts, limits))
    return concatenate(blocks)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 1.0])
@pytest.mark.parametrize(("k_min", "k_max"), [(1, 1), (5, 50), (10, 10**6)])
def test_the_neighbours_are_the_cores(name, shards, threshold, k_min, k_max):
    limits = Limits(threshold, k_min, k_max)
    expected, got = mine(SETS[name], limits), by_faiss(unit_rows(SETS[name]), limits, shards=shards)
    torch.testing.assert_close(got.offsets, expected.offsets, rtol=0, atol=0)
    torch.testing.assert_close(got.ids, expected.ids, rtol=0, atol=0)
    torch.testing.assert_close(got.similarities, expected.similarities, rtol=0, atol=0)


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


def test_no_more_pairs_than_needed():
    unit = clustered(1000)
    crow, _ = FaissCandidates(unit.numpy()).propose(unit, torch.arange(1000), Limits(-1.0, 5, 20))
    assert (crow.diff() == 20).all()  # no ties here


def test_one_search_for_a_row_without_ties(monkeypatch):
    unit, asked = clustered(1000), []
    index = FaissCandidates(unit.numpy())
    search = index._index.search
    monkeypatch.setattr(index._index, "search", lambda rows, k: asked.append((len(rows), k)) or search(rows, k))
    index.propose(unit[:50], torch.arange(50), Limits(1.0, 5, 100))
    assert asked == [(50, 14)]


def test_memory_of_one_search_is_bounded(monkeypatch):
    unit = clustered()
    index = FaissCandidates(unit.numpy())
    asked = unit, torch.arange(300), Limits(0.3, 5, 50)
    expected = index.propose(*asked)
    monkeypatch.setattr(faiss_index, "_BLOCK", 100)
    for got, whole in zip(index.propose(*asked), expected, strict=True):
        assert torch.equal(got, whole)


def test_empty_base_and_no_queries():
    unit, limits = clustered(10), Limits(0.3, 1, 2)
    crow, cols = FaissCandidates(unit[:0].numpy()).propose(unit, NOBODY[:10], limits)
    assert (crow.tolist(), cols.tolist()) == ([0] * 11, [])
    crow, cols = FaissCandidates(unit.numpy()).propose(unit[:0], NOBODY[:0], limits)
    assert (crow.tolist(), cols.tolist()) == ([0], [])


def test_the_limit_of_a_gpu_is_an_error_not_a_short_list():
    unit = clustered()
    index = FaissCandidates(unit.numpy())
    index._max_k = 32  # as a GPU's 2,048
    index.propose(unit, NOBODY, Limits(1.0, 5, 5))
    with fails(ValueError, "at most 32 answers", "k_max 200"):
        index.propose(unit, NOBODY, Limits(-1.0, 5, 200))


def test_errors():
    unit = clustered(10).numpy()
    for bad in (unit.astype(np.float64), unit[0]):
        with fails(ValueError, "must be float32 [n, D]"):
            FaissCandidates(bad)
    with fails(ValueError, "must be float32 [n, 24]"):
        FaissCandidates(unit).propose(torch.from_numpy(unit[:, :5]), NOBODY[:10], Limits(0.3, 1, 1))


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS is built for GPUs")
def test_a_gpu_without_support_is_a_clear_error():
    with fails(RuntimeError, "built for CPUs;", "pip install faiss-gpu-cu12"):
        FaissCandidates(clustered(10).numpy(), gpu=True)
