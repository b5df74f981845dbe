"""The files of neighbour lists: written block by block, counted file by file, loaded for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core.neighbors import Limits, Neighbors, merge
from icce_ray.io.storage import FileInfo
from icce_ray.stages.cluster import run_bounded
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors.index import Arrays, as_lists
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS

#: Files a task counts, and such tasks at a time.
_FILES, _TASKS = 16, 32
#: image_ids for each row, up to which a table of them is made: 64 bytes a row.
_MOST_GAPS = 16


@ray.remote(num_cpus=0.25)
def image_ids(rows: FeatureRows) -> np.ndarray:
    """image_id of every row, int64[N]."""
    return rows.image_ids()


@ray.remote(num_cpus=0.25)
def write_merged(
    root: str, rows: FeatureRows, index: int, start: int, image_ids: np.ndarray, limits: Limits, *shards: Arrays
) -> FileInfo:
    """Merge the shards' lists of one block and write its file below `root`, with image_ids in place of row numbers."""
    merged = merge([as_lists(arrays) for arrays in shards], limits)
    offsets = pa.array(merged.offsets.numpy(), pa.int64())
    neighbor_ids = pa.LargeListArray.from_arrays(offsets, pa.array(image_ids[merged.ids.numpy()]))
    similarities = pa.LargeListArray.from_arrays(offsets, pa.array(merged.similarities.numpy()))
    table = rows.table(start, start + len(offsets) - 1, ["image_id", "key"])
    table = table.append_column("neighbor_ids", neighbor_ids).append_column("similarities", similarities)
    return NEIGHBORS.write(Store(root).storage, table, index)


def count_lists(store: Store, files: list[FileInfo], k_min: int) -> dict[str, Any]:
    """What the lists look like: how many neighbours, the share of images filled up to k_min."""
    paths, counts = [info.path for info in files], []
    run_bounded(
        lambda index: _count.remote(store.root, paths[index : index + _FILES], k_min),
        range(0, len(paths), _FILES),
        limit=_TASKS,
        on_result=counts.append,
    )
    images, pairs, at_k_min, smallest, largest = zip(*counts, strict=True)
    return {
        "images": sum(images),
        "pairs": sum(pairs),
        "mean_neighbors": sum(pairs) / sum(images),
        "smallest": min(smallest),
        "largest": max(largest),
        "share_at_k_min": sum(at_k_min) / sum(images),
    }


@ray.remote(num_cpus=0.25)
def _count(root: str, paths: list[str], k_min: int) -> tuple[int, int, int, int, int]:
    """Of some files: images, pairs, images with no more than k_min, the shortest and the longest list."""
    storage = Store(root).storage
    counts = np.concatenate([np.diff(_offsets(storage.read_table(path, ["neighbor_ids"]))) for path in paths])
    return len(counts), int(counts.sum()), int((counts <= k_min).sum()), int(counts.min()), int(counts.max())


def _offsets(table: pa.Table) -> np.ndarray:
    return table["neighbor_ids"].combine_chunks().offsets.to_numpy()


def load(root: str, rows: FeatureRows, similarities: bool = False) -> Neighbors:
    """All neighbour lists of a run by row number, int32, on the CPU.

    `similarities` also loads these, float32: `core.neighbors.apply_limits` needs them, training does not. The memory is
    that of the lists and of one file. Raises RunError for lists that an older version mined.
    """
    store = Store(root)
    marker = store.require("neighbors")
    if "pairs" not in marker.summary:
        raise RunError(f"the neighbours of {root} were mined by an older version; mine them again: --redo neighbors")
    row_of = row_numbers(rows.image_ids())
    offsets = torch.zeros(marker.summary["images"] + 1, dtype=torch.int64)
    ids = torch.empty(marker.summary["pairs"], dtype=torch.int32)
    values = torch.empty(len(ids) if similarities else 0)
    columns = ["neighbor_ids", "similarities"] if similarities else ["neighbor_ids"]
    row = pair = 0
    for info in NEIGHBORS.files(marker.files):
        table = store.storage.read_table(info.path, columns)
        ends = torch.from_numpy(_offsets(table)[1:] + pair)
        last = int(ends[-1])
        offsets[row + 1 : row + 1 + len(ends)] = ends
        ids[pair:last] = torch.from_numpy(row_of(table["neighbor_ids"].combine_chunks().flatten().to_numpy()))
        if similarities:
            values[pair:last] = torch.tensor(table["similarities"].combine_chunks().flatten().to_numpy())
        row, pair = row + len(ends), last
    return Neighbors(offsets, ids, values)


def row_numbers(image_ids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function from image_ids to their places in `image_ids`, int64[N], ascending.

    A subtraction where ids have no gap, a table where they have few; a search, which takes a hundred times as long as a
    table, only among a sparse sample, whose table would be larger than the lists.
    """
    first, span = int(image_ids[0]), int(image_ids[-1] - image_ids[0]) + 1
    if span == len(image_ids):
        return lambda ids: ids - first
    if span > _MOST_GAPS * len(image_ids):
        return lambda ids: np.searchsorted(image_ids, ids)
    table = np.zeros(span, np.int32)
    table[image_ids - first] = np.arange(len(image_ids), dtype=np.int32)
    return lambda ids: table[ids - first]
