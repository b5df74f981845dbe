"""Exact neighbours: the same lists over any shards and in any precision as on the CPU, and the speed of a search."""

from __future__ import annotations

import itertools

import torch
from rates_device import images_with_lists, search
from torch import Tensor

from gpu.day import Day, Failed, Figures
from icce_ray.core.neighbors import Limits, Neighbors, concatenate, merge, offsets_of, ranges
from icce_ray.core.products import CoarseRows, rounding_margin
from icce_ray.core.search import search_shard, unit_rows

#: Half is exact in every precision and order of summation, so that ties at this threshold are ties on every device.
THRESHOLD, K_MIN, K_MAX = 0.5, 10, 32
SHARDS = (1, 2, 7)
BLOCK_ROWS = 2048


def with_ties(n: int, dim: int, hubs: int) -> Tensor:
    """Rows float16[n, dim] of classes, with ties at the threshold planted among them.

    Hub i is the i-th unit vector; 2 K_MAX rows, spread over all, have a half there and in three places of their own:
    their cosine to the hub is one half exactly. Row i < hubs is hub i; it keeps the K_MAX ties with the lowest ids.
    """
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(max(2, n // 50), dim, generator=generator)
    rows = classes[torch.randint(len(classes), (n,), generator=generator)] + torch.randn(n, dim, generator=generator)
    rows[:hubs] = torch.eye(hubs, dim)
    for hub, ids in enumerate(tied(n, hubs)):
        others = torch.rand(len(ids), dim - hubs, generator=generator).topk(3).indices + hubs
        planted = torch.zeros(len(ids), dim).scatter_(1, others, 0.5)
        planted[:, hub] = 0.5
        rows[ids] = planted
    return rows.half()


def tied(n: int, hubs: int) -> Tensor:
    """Rows with a tie at the threshold of each hub, ascending int64[hubs, 2 K_MAX]."""
    every = (n - hubs) // (hubs * 2 * K_MAX)
    return hubs + (torch.arange(hubs * 2 * K_MAX) * every).view(2 * K_MAX, hubs).T


def sharded(unit: Tensor, queries: Tensor, limits: Limits, shards: int, dtype: torch.dtype) -> Neighbors:
    """Lists of some rows by a search of so many shards, with products in `dtype`, on the CPU."""
    edges = torch.linspace(0, len(unit), shards + 1).long().tolist()
    parts = [
        (first, unit[first:last], CoarseRows.of(unit[first:last], dtype)) for first, last in itertools.pairwise(edges)
    ]
    blocks = []
    for rows in queries.to(unit.device).split(BLOCK_ROWS):
        lists = [
            search_shard(unit[rows], base, limits, query_rows=rows, first_base=first, coarse=coarse)
            for first, base, coarse in parts
        ]
        blocks.append(merge(lists, limits).to("cpu"))
    return concatenate(blocks)


def keys(lists: Neighbors, n: int) -> Tensor:
    """An integer for each pair of a list, in its order."""
    return torch.repeat_interleave(torch.arange(len(lists.counts)), lists.counts) * n + lists.ids


def compare(found: Neighbors, expected: Neighbors, limits: Limits, n: int, margin: float) -> tuple[int, float]:
    """How many pairs are in one of two lists only, and how far scores are apart; Failed unless rounding explains it.

    Two devices sum in other orders: scores are apart by at most `margin`, and so is what only one of them keeps from
    the threshold or from the last that is kept.
    """
    ours, theirs = keys(found, n), keys(expected, n)
    cut = [
        torch.where(
            one.counts < limits.k_max,
            torch.where(one.counts > limits.k_min, limits.threshold, last),
            last,
        )
        for one in (found, expected)
        for last in (one.similarities[one.offsets[1:] - 1],)
    ]
    only = 0
    for one, mine, others, edge in ((found, ours, theirs, cut[0]), (expected, theirs, ours, cut[1])):
        extra = ~torch.isin(mine, others)
        far = (one.similarities[extra] - edge[mine[extra] // n]).abs() > margin
        if bool(far.any()):
            pair = int(mine[extra][far][0])
            raise Failed(f"row {pair // n} and {pair % n} are neighbours on one device only, beyond {margin:.1e}")
        only += int(extra.sum())
    both = [torch.isin(ours, theirs), torch.isin(theirs, ours)]
    scores = [
        one.similarities[kept][mine[kept].argsort()]
        for one, mine, kept in zip((found, expected), (ours, theirs), both, strict=True)
    ]
    apart = float((scores[0] - scores[1]).abs().max())
    if apart > margin:
        raise Failed(f"scores of the same pair are {apart:.1e} apart, beyond {margin:.1e}")
    return only, apart


def mined(day: Day) -> Figures:
    """Lists in 1, 2 and 7 shards, float16 and float32: one to the bit, the CPU's within rounding, ties by their ids."""
    n, dim, hubs = day.size((100_000, 2048, 64), (1500, 64, 4))
    limits, features = Limits(THRESHOLD, K_MIN, K_MAX), with_ties(n, dim, hubs)
    every, some = torch.arange(n), torch.arange(0, n, day.size(4, 1))  # the CPU takes the longest
    queries = torch.cat([torch.arange(hubs), some[some >= hubs]])
    expected = sharded(unit_rows(features), queries, limits, 1, torch.float32)
    there = features.to(day.device)
    rows = {"float16": unit_rows(there), "float32": unit_rows(there.float())}
    types = {"float16": day.size(torch.float16, torch.bfloat16), "float32": torch.float32}
    first, only, apart = None, 0, 0.0
    for name, shards in itertools.product(types, SHARDS):
        lists = sharded(rows[name], every, limits, shards, types[name])
        if first is None:
            first = lists
            only, apart = compare(_rows_of(lists, queries), expected, limits, n, rounding_margin(dim))
        if not all(torch.equal(*pair) for pair in zip(vars(lists).values(), vars(first).values(), strict=True)):
            raise Failed(f"{name} in {shards} shards: other lists than float16 in one shard")
        _check_ties(lists, tied(n, hubs), name)
    return {
        "images": n,
        "queries_on_cpu": len(queries),
        "pairs": len(expected.ids),
        "in_one_only": only,
        "scores_apart": apart,
    }


def _rows_of(lists: Neighbors, rows: Tensor) -> Neighbors:
    counts = lists.counts[rows]
    place = ranges(lists.offsets[rows], counts)
    return Neighbors(offsets_of(counts), lists.ids[place], lists.similarities[place])


def _check_ties(lists: Neighbors, planted: Tensor, name: str) -> None:
    """Each hub keeps the ties with the lowest ids, all at the threshold."""
    for hub, ids in enumerate(planted):
        kept = slice(int(lists.offsets[hub]), int(lists.offsets[hub + 1]))
        if not torch.equal(lists.ids[kept], ids[:K_MAX]) or not bool((lists.similarities[kept] == THRESHOLD).all()):
            raise Failed(f"{name}: hub {hub} keeps {lists.ids[kept].tolist()}, its ties are {ids[:K_MAX].tolist()}")


def queries(day: Day) -> Figures:
    """4,096 queries among 1.28 M images: seconds, and the share of the products' peak."""
    n, dim, count, few, many = day.size((1_281_167, 2048, 4096, 50, 1280), (2048, 32, 256, 5, 50))
    rates = search(images_with_lists(n, dim, day.device, 1)[0], count, few=few, many=many)
    flops = 2.0 * count * n * dim
    return {
        "seconds": flops / rates["search_matmul"],
        "flops": flops,
        "share_of_arithmetic": day.share(rates["search_matmul"], "bfloat16_tflops", 1e12),
        "rates": rates,
    }
