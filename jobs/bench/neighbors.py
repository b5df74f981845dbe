"""Exact search beside inverted lists: seconds, recall, and how many lists to look at.

    python jobs/bench/neighbors.py [--images 60000] [--dim 384] [--queries 6000]

The features are made: 100 classes of ten groups each, all Gaussian with variances that fall as i ** -0.75; the
classes overlap, so that at cosine 0.3 about one neighbour of five is of another class. One shard, the calls that its
actor makes. Recall is measured on the queries themselves.
"""

import argparse
import os
import time
from typing import Any

import torch

from icce_ray.adapters.faiss_index import FaissCandidates
from icce_ray.adapters.faiss_lists import InvertedLists, default_lists, default_probes
from icce_ray.core.neighbors import Neighbors, concatenate, default_k_max, found_among
from icce_ray.core.search import Proposer, search_shard, unit_rows

CLASSES, GROUPS = 100, 10
THRESHOLD, K_MIN = 0.3, 50  # the paper's
BLOCK_ROWS = 4096
PROBES = (1, 4, 8, 16, 32, 64, 128, 256)


def features(n: int, dim: int) -> torch.Tensor:
    """Unit rows float32 [n, dim]."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1).float().pow(-0.375)
    spectrum *= (dim / spectrum.square().sum()).sqrt()

    def drawn(count: int) -> torch.Tensor:
        return torch.randn(count, dim, generator=generator) * spectrum

    classes = drawn(CLASSES)
    groups = classes.repeat_interleave(GROUPS, 0) + 0.7 * drawn(CLASSES * GROUPS)
    rows = groups[torch.randint(len(groups), (n,), generator=generator)] + 1.3 * drawn(n)
    return unit_rows(rows)


def searched(
    unit: torch.Tensor, rows: torch.Tensor, limits: dict[str, Any], propose: Proposer | None
) -> tuple[Neighbors, float]:
    """Lists of some rows among all, and the seconds they took."""
    started = time.perf_counter()
    blocks = [
        search_shard(unit[block], unit, query_rows=block, first_base=0, propose=propose, **limits)
        for block in rows.split(BLOCK_ROWS)
    ]
    return concatenate(blocks), time.perf_counter() - started


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=6000)
    arguments = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    unit = features(arguments.images, arguments.dim)
    rows = torch.arange(0, len(unit), max(1, len(unit) // arguments.queries))[: arguments.queries]
    limits = {"threshold": THRESHOLD, "k_min": K_MIN, "k_max": default_k_max(len(unit), CLASSES, K_MIN)}
    exact, seconds = searched(unit, rows, limits, None)
    mean, at_most = exact.counts.double().mean(), (exact.counts == limits["k_max"]).double().mean()
    print(
        f"{len(unit):,} x {arguments.dim}, {len(rows):,} queries, {limits}, {threads} threads: {mean:.0f} neighbours "
        f"on average, {at_most:.0%} of the images have k_max.\n"
    )
    print("| search | index s | search s | recall |\n|---|---|---|---|")
    print(f"| torch, exact | - | {seconds:.2f} | 1 |", flush=True)
    started = time.perf_counter()
    index = FaissCandidates(unit.numpy(), threads=threads)
    built = time.perf_counter() - started
    found, seconds = searched(unit, rows, limits, index.propose)
    same, of = found_among(found, exact)
    print(f"| faiss, exact | {built:.2f} | {seconds:.2f} | {same / of:.4g} |", flush=True)
    started = time.perf_counter()
    index = InvertedLists(unit.numpy(), threads=threads)
    built = time.perf_counter() - started
    lists = default_lists(len(unit))
    for probes in sorted({*PROBES, default_probes(lists)}):
        index.probes = probes
        found, seconds = searched(unit, rows, limits, index.propose)
        same, of = found_among(found, exact)
        note = ", the default" if probes == default_probes(lists) else ""
        print(f"| ivf, {probes} of {lists} lists{note} | {built:.2f} | {seconds:.2f} | {same / of:.4f} |", flush=True)


if __name__ == "__main__":
    main()
