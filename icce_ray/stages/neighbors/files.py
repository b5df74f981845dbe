"""The files of neighbour lists: written block by block, counted file by file, loaded for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.core import neighbors as core
from icce_ray.io.storage import FileInfo
from icce_ray.stages.cluster import run_bounded
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS

#: Files a task counts, and such tasks at a time.
_FILES, _TASKS = 16, 32


@ray.remote(num_cpus=0.25)
def image_ids(rows: FeatureRows) -> np.ndarray:
    """image_id of every row, int64[N]."""
    return rows.image_ids()


@ray.remote(num_cpus=0.25)
def write_merged(
    root: str, rows: FeatureRows, index: int, start: int, image_ids: np.ndarray, limits: dict[str, Any], *lists: Any
) -> FileInfo:
    """Merge the shards' lists of one block and write its file below `root`, with row numbers as image_ids."""
    merged = core.merge(as_lists(lists), **limits)
    offsets = pa.array(merged.offsets.numpy(), pa.int64())
    neighbor_ids = pa.LargeListArray.from_arrays(offsets, pa.array(image_ids[merged.ids.numpy()]))
    similarities = pa.LargeListArray.from_arrays(offsets, pa.array(merged.similarities.numpy()))
    table = rows.table(start, start + len(offsets) - 1, ["image_id", "key"])
    table = table.append_column("neighbor_ids", neighbor_ids).append_column("similarities", similarities)
    return NEIGHBORS.write(Store(root).storage, table, index)


def as_lists(shards: Any) -> list[core.Neighbors]:
    """Lists as actors send them; copied, for Ray's arrays are read-only."""
    return [core.Neighbors(*(torch.tensor(array) for array in arrays)) for arrays in shards]


def counted(store: Store, found: list[FileInfo], k_min: int) -> dict[str, Any]:
    """What the lists look like: how many neighbours, the share of images filled up to k_min."""
    paths = [info.path for info in found]
    images, pairs, at_k_min, smallest, largest = 0, 0, 0, np.iinfo(np.int64).max, 0

    def on_result(counts: tuple[int, ...]) -> None:
        nonlocal images, pairs, at_k_min, smallest, largest
        images, pairs, at_k_min = images + counts[0], pairs + counts[1], at_k_min + counts[2]
        smallest, largest = min(smallest, counts[3]), max(largest, counts[4])

    count: Any = _count
    run_bounded(
        lambda index: count.remote(store.root, paths[index : index + _FILES], k_min),
        range(0, len(paths), _FILES),
        limit=_TASKS,
        on_result=on_result,
    )
    return {
        "images": images,
        "pairs": pairs,
        "mean_neighbors": pairs / images,
        "smallest": smallest,
        "largest": largest,
        "share_at_k_min": at_k_min / images,
    }


@ray.remote(num_cpus=0.25)
def _count(root: str, paths: list[str], k_min: int) -> tuple[int, int, int, int, int]:
    """Of some files: images, pairs, images with no more than k_min, the shortest and the longest list."""
    storage = Store(root).storage
    counts = np.concatenate([np.diff(_offsets(storage.read_table(path, ["neighbor_ids"]))) for path in paths])
    return len(counts), int(counts.sum()), int((counts <= k_min).sum()), int(counts.min()), int(counts.max())


def _offsets(table: pa.Table) -> np.ndarray:
    return table["neighbor_ids"].combine_chunks().offsets.to_numpy()


def load(root: str, rows: FeatureRows, similarities: bool = False) -> core.Neighbors:
    """All neighbour lists of a run by row number, int32, on the CPU.

    `similarities` also loads these, float32: `core.neighbors.narrow` needs them, training does not. The memory is that
    of the lists and of one file. Raises RunError for lists that an older version mined.
    """
    store = Store(root)
    marker = store.require("neighbors")
    if "pairs" not in marker.summary:
        raise RunError(f"the neighbours of {root} were mined by an older version; mine them again: --redo neighbors")
    names = rows.image_ids()
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
        places = np.searchsorted(names, table["neighbor_ids"].combine_chunks().flatten().to_numpy())
        ids[pair:last] = torch.from_numpy(places)
        if similarities:
            values[pair:last] = torch.tensor(table["similarities"].combine_chunks().flatten().to_numpy())
        row, pair = row + len(ends), last
    return core.Neighbors(offsets, ids, values)
