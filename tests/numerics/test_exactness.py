"""Scores and bounds of the neighbour search in exact arithmetic: what CUDA computes, and hardware that truncates."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from icce_ray.core import products, search
from icce_ray.core.search import unit_rows


@pytest.mark.parametrize("dim", [7, 384, 2048])
def test_scores_on_cuda_are_exact_sums_which_no_order_changes(dim, monkeypatch):
    """Of rows whose partial sums float32 would round: the correctly rounded sum of the exact products, in any order."""
    monkeypatch.setattr(search, "score_dtype", lambda _: torch.float64)
    rows = torch.randn(12, dim, generator=torch.Generator().manual_seed(dim))
    unit = unit_rows(rows + 1.0)
    crow, cols = torch.arange(0, 145, 12), torch.arange(12).repeat(12)
    scores = search.rescore(unit, unit, crow, cols).view(12, 12).numpy()
    exact = [
        [float(sum(Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True))) for y in unit.tolist()]
        for x in unit.tolist()
    ]
    assert np.array_equal(scores, np.clip(np.float32(exact), -1, 1))
    shuffled = unit[:, torch.randperm(dim, generator=torch.Generator().manual_seed(0))]
    assert np.array_equal(search.rescore(shuffled, shuffled, crow, cols).view(12, 12).numpy(), scores)


def truncated_sum(products, block):
    """As tensor cores: a block and the sum so far are shifted to the largest; 24 bits of each and of the sum stay."""
    total = Fraction(0)
    for start in range(0, len(products), block):
        addends = [total, *products[start : start + block]]
        total = cut(sum(cut(one, max(map(abs, addends))) for one in addends))
    return total


def cut(value, largest=None):
    """`value` truncated to the 24 bits that a float32 as large as `largest`, by default itself, has."""
    largest = abs(value) if largest is None else largest
    unit = Fraction(2) ** (int(np.frexp(float(largest))[1]) - 24)
    return int(value / unit) * unit


@pytest.mark.parametrize("block", [1, 4, 16])
def test_the_margin_holds_for_hardware_that_truncates(block):
    """What is added to a sum just above one is lost: more than float32 rounded to nearest may lose."""
    dim = 512
    terms = [Fraction(1)] + [Fraction(2) ** -23 * Fraction(1023, 1024)] * (dim - 1)
    error = float((sum(terms) - truncated_sum(terms, block)) / sum(terms))
    assert products.rounding_margin(dim) / 2 < error <= products.block_sum_error(dim)
