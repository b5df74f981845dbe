"""Exact search against the bare product and FAISS, then inverted lists: seconds, same neighbours, recall.

    python jobs/bench/neighbors.py [--images 60000] [--dim 384] [--queries 6000] [--classes 40] [--device cuda]

The features are made: classes of ten groups each, all Gaussian with variances that fall as i ** -0.75; the classes
overlap, so that at cosine 0.3 about one neighbour of five is of another class. One shard, the calls that its actor
makes. `product` is the bare blocked product into a buffer that stays. `faiss.knn` asks for k_max, `range_search` for
the threshold: neither fills up to k_min, cuts, or orders ties. Recall is measured on the queries themselves.
"""

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import torch
from measuring import header, least, options, row

from icce_ray.core.neighbors import Limits, Neighbors, concatenate, count_shared, default_k_max
from icce_ray.core.products import CoarseRows, product_dtype
from icce_ray.core.search import BLOCK_ELEMENTS, search_shard, unit_rows
from icce_ray.search.faiss_index import FaissCandidates, InvertedLists, default_lists, default_probes

GROUPS = 10
THRESHOLD, K_MIN = 0.3, 50  # the paper's
BLOCK_ROWS = 4096
PROBES = (1, 4, 8, 16, 32, 64, 128, 256)


def features(n: int, dim: int, n_classes: int) -> torch.Tensor:
    """Unit rows float32 [n, dim]."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1).float().pow(-0.375)
    spectrum *= (dim / spectrum.square().sum()).sqrt()

    def drawn(count: int) -> torch.Tensor:
        return torch.randn(count, dim, generator=generator) * spectrum

    classes = drawn(n_classes)
    groups = classes.repeat_interleave(GROUPS, 0) + 0.7 * drawn(n_classes * GROUPS)
    rows = groups[torch.randint(len(groups), (n,), generator=generator)] + 1.3 * drawn(n)
    return unit_rows(rows)


def searched(unit: torch.Tensor, rows: torch.Tensor, limits: Limits, **options: Any) -> tuple[Neighbors, float]:
    """Lists of some rows among all, and the seconds they took."""
    started = time.perf_counter()
    blocks = [
        search_shard(unit[block], unit, limits, query_rows=block.to(unit.device), first_base=0, **options)
        for block in rows.split(BLOCK_ROWS)
    ]
    lists = concatenate(blocks).to("cpu")
    return lists, time.perf_counter() - started


def product(unit: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> float:
    """Seconds of the products that an exact search of these rows makes, and of nothing else."""
    base = unit.to(dtype)
    memory = base.new_empty(BLOCK_ELEMENTS[unit.device.type])
    step = len(memory) // BLOCK_ROWS

    def once() -> None:
        for block in rows.split(BLOCK_ROWS):
            queries = base[block]
            for other in base.split(step):
                out = memory[: len(queries) * len(other)].view(len(queries), len(other))
                torch.mm(queries, other.T, out=out)
        if unit.is_cuda:
            torch.cuda.synchronize()

    return least(once, 2)


def faiss_calls(unit: np.ndarray, queries: np.ndarray, limits: Limits, threads: int) -> Iterator[tuple[str, float]]:
    """Seconds of FAISS's own two ways."""
    faiss.omp_set_num_threads(threads)
    started = time.perf_counter()
    faiss.knn(queries, unit, limits.k_max, faiss.METRIC_INNER_PRODUCT)
    yield f"faiss.knn, k = {limits.k_max}", time.perf_counter() - started
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    started = time.perf_counter()
    index.range_search(queries, limits.threshold)
    yield "IndexFlatIP.range_search", time.perf_counter() - started


def same(lists: Neighbors, others: Neighbors) -> bool:
    """Whether two searches found the same neighbours with the same scores, to the last bit."""
    return all(torch.equal(getattr(lists, name), getattr(others, name)) for name in ("offsets", "ids", "similarities"))


def main() -> None:
    """Print the tables, in Markdown."""
    sizes = {"images": 60_000, "dim": 384, "queries": 6000, "classes": 40, "threads": os.cpu_count()}
    given = options(__doc__, **sizes, device="cpu", no_ivf=False).parse_args()
    torch.set_num_threads(given.threads)
    unit = features(given.images, given.dim, given.classes)
    rows = torch.arange(0, len(unit), max(1, len(unit) // given.queries))[: given.queries]
    limits = Limits(THRESHOLD, K_MIN, default_k_max(len(unit), given.classes, K_MIN))
    exact = exact_search(unit, rows, limits, given)
    if not given.no_ivf:
        inverted_lists(unit, rows, limits, exact, given.threads)


def exact_search(unit: torch.Tensor, rows: torch.Tensor, limits: Limits, given: argparse.Namespace) -> Neighbors:
    """Print the table of exact searches; the lists."""
    there = unit.to(given.device)
    fastest = product_dtype(there.device)
    searched(there, rows[:BLOCK_ROWS], limits)  # libraries start their threads
    lists, _ = reference = searched(there, rows, limits, coarse=CoarseRows.of(there, torch.float32))
    products = {dtype: product(there, rows, dtype) for dtype in dict.fromkeys((torch.float32, fastest))}
    mean, at_most = lists.counts.double().mean(), (lists.counts == limits.k_max).double().mean()
    print(
        f"{len(unit):,} x {given.dim}, {len(rows):,} queries, {limits}, {given.device}, {given.threads} threads: "
        f"{mean:.0f} neighbours on average, {at_most:.0%} of the images have k_max.\n"
    )
    header("search", "seconds", "over the float32 product", "same neighbours")

    def add(name: str, seconds: float, found: Neighbors | None = None) -> None:
        equal = "" if found is None else "yes" if same(found, lists) else "NO"
        row(name, f"{seconds:.2f}", f"{seconds / products[torch.float32]:.2f}", equal)

    for dtype, seconds in products.items():
        add(f"product, {str(dtype)[6:]}", seconds)
    add("ours, float32", reference[1], lists)
    if fastest != torch.float32:
        found, seconds = searched(there, rows, limits, coarse=CoarseRows.of(there))
        add(f"ours, {str(fastest)[6:]} and float32 scores", seconds, found)
    if given.device == "cpu":
        for name, seconds in faiss_calls(unit.numpy(), unit[rows].numpy(), limits, given.threads):
            add(name, seconds)
        index = FaissCandidates(unit.numpy(), threads=given.threads)
        found, seconds = searched(unit, rows, limits, propose=index.propose)
        add("neighbors.search = faiss", seconds, found)
    return lists


def inverted_lists(unit: torch.Tensor, rows: torch.Tensor, limits: Limits, exact: Neighbors, threads: int) -> None:
    """Print the table of inverted lists."""
    print()
    header("search", "index s", "search s", "recall")
    started = time.perf_counter()
    index = InvertedLists(unit.numpy(), threads=threads)
    built = time.perf_counter() - started
    lists = default_lists(len(unit))
    for probes in sorted({*PROBES, default_probes(lists)}):
        index.probes = probes
        found, seconds = searched(unit, rows, limits, propose=index.propose)
        shared, of = count_shared(found, exact)
        note = ", the default" if probes == default_probes(lists) else ""
        row(f"ivf, {probes} of {lists} lists{note}", f"{built:.2f}", f"{seconds:.2f}", f"{shared / of:.4f}")


if __name__ == "__main__":
    main()
