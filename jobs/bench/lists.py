"""What neighbour lists cost beside the search: merging a block's lists, and numbering the ids that are loaded.

    python jobs/bench/lists.py [--queries 4096] [--neighbors 1281] [--images 1281167] [--passes 3]

First the seconds that a task takes to merge and write one block, by the number of parts that the base was cut into:
each part gives a list of `neighbors` for every query, as parts cannot know what is nearer elsewhere. Then nanoseconds a
pair of `row_numbers`, for image_ids without gaps, with gaps that a table spans, and of a sparse sample; and what
`np.searchsorted` takes for the same ids.
"""

import os
import time
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from measuring import header, least, options, row

from icce_ray.core.neighbors import Limits, Neighbors, merge, offsets_of
from icce_ray.io.storage import Storage
from icce_ray.stages.neighbors import list_columns, row_numbers


def part(number: int, parts: int, queries: int, count: int, images: int) -> Neighbors:
    """Lists as a part of a base gives them: `count` descending similarities of every query."""
    generator = torch.Generator().manual_seed(number)
    values = torch.rand(queries, count, generator=generator).mul_(0.5).sort(dim=1, descending=True).values
    ids = torch.randint(images // parts, (queries, count), generator=generator) + number * (images // parts)
    return Neighbors(offsets_of(torch.full((queries,), count)), ids.reshape(-1), 0.3 + values.reshape(-1))


def merging(queries: int, count: int, images: int, passes: int) -> None:
    """Print the table of merges."""
    header("parts", "MB received", "merge s", "write s")
    image_ids = np.arange(images)
    for parts in (1, 2, 8):
        lists = [part(number, parts, queries, count, images) for number in range(parts)]
        limits = Limits(0.3, 50, count)
        seconds = least(lambda lists=lists, limits=limits: merge(lists, limits), passes)
        merged = merge(lists, limits)
        with TemporaryDirectory() as folder:
            storage = Storage(folder)

            def write(merged: Neighbors = merged, storage: Storage = storage) -> None:
                storage.write_table("lists.parquet", pa.table(list_columns(merged, image_ids)))

            written = least(write, passes)
        row(parts, f"{sum(16 + 12 * len(one.ids) for one in lists) / 1e6:.0f}", f"{seconds:.2f}", f"{written:.2f}")


def numbering(pairs: int, images: int, passes: int) -> None:
    """Print the table of ids."""
    print()
    header("image_ids", "row_numbers ns per pair", "np.searchsorted ns per pair")
    rng = np.random.default_rng(0)
    for name, every in (("without gaps", 1), ("1 of 4", 4), ("1 of 1,000", 1000)):
        # Gaps as those of a uniform sample.
        image_ids = np.cumsum(rng.geometric(1 / every, images)) if every > 1 else np.arange(images)
        ids, started = image_ids[rng.integers(0, images, pairs)], time.perf_counter()
        row_of = row_numbers(image_ids)
        made = time.perf_counter() - started
        ours = least(lambda row_of=row_of, ids=ids: row_of(ids), passes)
        searched = least(lambda image_ids=image_ids, ids=ids: np.searchsorted(image_ids, ids), passes)
        row(f"{name} (table made in {made:.3f} s)", f"{1e9 * ours / pairs:.1f}", f"{1e9 * searched / pairs:.0f}")


def main() -> None:
    """Print the tables, in Markdown."""
    given = options(__doc__, queries=4096, neighbors=1281, images=1_281_167, passes=3).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{given.queries:,} queries of {given.neighbors:,} neighbours, {given.images:,} images\n")
    merging(given.queries, given.neighbors, given.images, given.passes)
    numbering(given.queries * given.neighbors, given.images, given.passes)


if __name__ == "__main__":
    main()
