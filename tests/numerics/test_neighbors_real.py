"""Neighbours among 8,000 real vectors: any shards and either exact search are one index; inverted lists nearly.

The vectors are patches of photographs, with duplicates planted across the shards.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Limits, concatenate, count_shared, merge
from icce_ray.core.search import search_shard, unit_rows
from icce_ray.search.faiss_index import FaissCandidates, InvertedLists
from tests.patches import THRESHOLD, photo_patches

N, BLOCK = 8_000, 1024
LIMITS = Limits(THRESHOLD, 10, 60)
QUERIES = torch.arange(0, N, 4)  # the stage's test has all


@pytest.fixture(scope="module")
def unit():
    return unit_rows(torch.from_numpy(photo_patches(N)))


@pytest.fixture(scope="module")
def one_index(unit):
    return searched(unit, shards_of(unit, 1), [None])


def shards_of(unit, count):
    edges = np.linspace(0, len(unit), count + 1).astype(int).tolist()
    return [(first, unit[first:last]) for first, last in pairwise(edges)]


def searched(unit, shards, indexes, rows=QUERIES):
    """Lists of some rows, in blocks against each of the shards, as the stage has them; None is the core's product."""
    blocks = []
    for block in rows.split(BLOCK):
        parts = [
            search_shard(unit[block], base, LIMITS, query_rows=block, first_base=first, propose=index and index.propose)
            for (first, base), index in zip(shards, indexes, strict=True)
        ]
        blocks.append(merge(parts, LIMITS))
    return concatenate(blocks)


def assert_same(found, expected):
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.similarities.view(torch.int32), expected.similarities.view(torch.int32))


def test_the_vectors_show_every_case(unit, one_index):
    counts = one_index.counts
    for case in (counts == 10, counts == 60, (counts > 10) & (counts < 60)):
        assert case.float().mean() > 0.02
    equal = (unit == unit[100]).all(1).nonzero().flatten()
    assert len(equal) >= N // 100
    # More than a list takes: those with the lowest ids, over the edges of the shards.
    start = int(one_index.offsets[equal[70] // 4])
    assert torch.equal(one_index.ids[start : start + 60], equal[:60])


@pytest.mark.parametrize("count", [2, 5])
def test_shards_are_one_index(unit, one_index, count):
    assert_same(searched(unit, shards_of(unit, count), [None] * count), one_index)


@pytest.mark.parametrize("count", [1, 5])
def test_shards_of_faiss_are_one_index(unit, one_index, count):
    shards = shards_of(unit, count)
    assert_same(searched(unit, shards, [FaissCandidates(base.numpy()) for _, base in shards]), one_index)


def test_inverted_lists_in_shards(unit):
    """One list looked at misses much, the default little, all lists nothing; and k_min always holds."""
    shards = shards_of(unit, 2)
    indexes = [InvertedLists(base.numpy(), threads=2) for _, base in shards]
    some = QUERIES[::4]
    exact = searched(unit, shards, [None, None], some)
    recalls = []
    for probes in (1, indexes[0].probes, indexes[0].lists):
        for index in indexes:
            index.probes = probes
        found = searched(unit, shards, indexes, some)
        assert (found.counts >= LIMITS.k_min).all()
        same, of = count_shared(found, exact)
        recalls.append(same / of)
    assert recalls[0] < 0.9 < 0.95 < recalls[1] < 1.0
    assert_same(found, exact)
