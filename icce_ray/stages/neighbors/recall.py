"""The recall of inverted lists: measured on a few images before the others are searched."""

from __future__ import annotations

from typing import Any

import ray

from icce_ray.core import neighbors as core
from icce_ray.core.sampling import uniform_rows
from icce_ray.progress import Progress
from icce_ray.settings import NeighborsSettings
from icce_ray.stages.neighbors.files import as_lists
from icce_ray.stages.neighbors.index import ShardedIndex
from icce_ray.store import RunError

_BLOCK_ROWS = 4096
#: Of the images drawn: fixed, for the neighbours depend on their own settings only.
_SEED = 0


def check_recall(
    index: ShardedIndex, settings: NeighborsSettings, limits: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Share of the exact neighbours of `recall_queries` random images that the inverted lists find, and the lists.

    Both are searched on the same shards, merged and selected alike. Raises RunError below `settings.recall`, with
    the number of lists to look at that was seen to be enough.
    """
    size = min(settings.recall_queries, len(index.rows))
    sample = uniform_rows(len(index.rows), size, _SEED)
    queries = {start: index.take(sample[start : start + _BLOCK_ROWS]) for start in range(0, size, _BLOCK_ROWS)}

    def measured(probes: int) -> float:
        found = of = 0
        for start, block in queries.items():
            numbers = sample[start : start + _BLOCK_ROWS]
            both = [index.search_by(search, block, numbers, limits, probes) for search in ("torch", "ivf")]
            counts = ray.get(_found.remote(len(index.shards), limits, *both[0], *both[1]))
            found, of = found + counts[0], of + counts[1]
        return found / of

    recall, probes = measured(index.probes), index.probes
    reached = f"{recall:.4f} with {probes} of {index.lists} inverted lists looked at"
    if recall < settings.recall:
        enough = recall
        while enough < settings.recall and probes < index.lists:
            probes = min(2 * probes, index.lists)
            enough = measured(probes)
        raise RunError(
            f"the recall of neighbors.search = ivf is {reached}, below neighbors.recall = {settings.recall} "
            f"({size:,} images); raise neighbors.ivf_probes to {probes}, which finds {enough:.4f}, or set "
            "neighbors.search=torch, which is exact"
        )
    progress.log(f"recall {reached}, on {size:,} images")
    return {"recall": recall, "recall_queries": size, "ivf_lists": index.lists, "ivf_probes": probes}


@ray.remote(num_cpus=0.25)
def _found(shards: int, limits: dict[str, Any], *lists: Any) -> tuple[int, int]:
    """Of the exact lists' entries, the first `shards` arguments, how many are in the other lists; and how many."""
    exact, approximate = (core.merge(as_lists(half), **limits) for half in (lists[:shards], lists[shards:]))
    return core.found_among(approximate, exact)
