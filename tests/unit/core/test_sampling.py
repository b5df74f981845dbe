"""The sample is uniform, is that of its seed alone, and needs no memory for the rows that are not in it."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.stats import chi2

from icce_ray.core import sampling
from icce_ray.core.sampling import uniform_rows
from tests.failures import fails


def slow_rows(n_rows, size, seed):
    """The rows of the smallest keys, all keys held and sorted."""
    keys = np.random.Philox(seed).random_raw(n_rows)
    return sorted(sorted(range(n_rows), key=lambda row: (int(keys[row]), row))[:size])


@pytest.mark.parametrize(("n_rows", "size"), [(1, 1), (7, 1), (7, 7), (100, 3), (100, 97), (5000, 800)])
def test_the_rows_of_the_smallest_keys(n_rows, size):
    for seed in range(3):
        rows = uniform_rows(n_rows, size, seed)
        assert rows.dtype == np.int64
        assert rows.tolist() == slow_rows(n_rows, size, seed)


def test_golden_rows():
    """Those of a run that is resumed must stay the same, whatever numpy is installed by then."""
    assert uniform_rows(1000, 8, 0).tolist() == [151, 293, 382, 617, 652, 693, 707, 793]
    assert uniform_rows(10**6, 5, 7).tolist() == [56519, 92059, 158097, 361298, 740324]


def test_every_row_and_every_pair_is_as_likely_as_any_other():
    n_rows, size, seeds = 12, 4, 4000
    chosen = np.zeros((seeds, n_rows), int)
    for seed in range(seeds):
        chosen[seed, uniform_rows(n_rows, size, seed)] = 1
    pairs = (chosen.T @ chosen)[np.triu_indices(n_rows, 1)]
    for counts, share in ((chosen.sum(0), size / n_rows), (pairs, size * (size - 1) / (n_rows * (n_rows - 1)))):
        deviations = (counts - seeds * share) ** 2 / (seeds * share * (1 - share))
        assert deviations.sum() < chi2.ppf(0.999, len(counts))


def test_rows_far_apart_are_drawn_alike():
    rows = uniform_rows(2_000_000, 20_000, 1)
    counts = np.bincount(rows // 100_000, minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < chi2.ppf(0.999, 19)


def test_a_larger_sample_holds_the_smaller_one():
    samples = [set(uniform_rows(3000, size, 5).tolist()) for size in (1, 10, 500, 2999, 3000)]
    assert all(small < large for small, large in itertools.pairwise(samples))
    assert len(set(uniform_rows(3000, 500, 6).tolist()) & samples[2]) < 200  # another seed, another sample


@pytest.mark.parametrize("block_rows", [1, 7, 1000, 4096])
def test_blocks_do_not_change_the_sample(block_rows):
    assert uniform_rows(1000, 60, 3, block_rows).tolist() == uniform_rows(1000, 60, 3).tolist()


def test_too_little_room_does_not_change_the_sample(monkeypatch):
    expected = [uniform_rows(5000, 1000, seed).tolist() for seed in range(4)]
    draws = []
    below = sampling._below
    monkeypatch.setattr(sampling, "_below", lambda *given: draws.append(given) or below(*given))
    monkeypatch.setattr(sampling, "_ROOM", 0.0)  # about half of all seeds have too few keys below the first cut
    assert [uniform_rows(5000, 1000, seed).tolist() for seed in range(4)] == expected
    assert len(draws) > 4


def test_equal_keys_go_by_row(monkeypatch):
    class Same:
        def __init__(self, seed):
            self.seed = seed

        def random_raw(self, count):
            return np.full(count, 2**64 - 1, np.uint64)

    monkeypatch.setattr(np.random, "Philox", Same)
    assert uniform_rows(50, 5, 0, block_rows=8).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("n_rows", "size"), [(10, 0), (10, 11), (0, 0), (0, 1), (10, -1)])
def test_sizes_that_cannot_be_drawn(n_rows, size):
    with fails(ValueError, f"{size} rows", n_rows, "1 to"):
        uniform_rows(n_rows, size, 0)


def test_memory_is_that_of_the_sample():
    tracemalloc.start()
    try:
        rows = uniform_rows(8_000_000, 1000, 0, block_rows=2**14)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 1000
    assert peak < 2**20  # all keys are 61 MiB
