"""Stage `neighbors`: adaptive neighbour lists from an index sharded over actors (paper 3.1).

Each actor holds one shard of the unit features. A block of queries is read once, goes to every actor by reference,
and the shards' lists are merged to those that one index would give; nothing but counts reaches the driver.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.core import neighbors as core
from icce_ray.core import search as exact
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, run_files
from icce_ray.stages.rows import FeatureRows
from icce_ray.stages.shards import described
from icce_ray.stages.truth import truth_of_rows
from icce_ray.store import ARTIFACTS, Store

ARTIFACT = ARTIFACTS["neighbors"]


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Mine the neighbours of every block of images whose shard is not there yet."""
    rows = FeatureRows.training(store)
    size = settings.neighbors.rows_per_shard
    blocks = [(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    done = store.parts(ARTIFACT)
    missing = [index for index in range(len(blocks)) if index not in done]
    finished = sum(stop - start for index, (start, stop) in enumerate(blocks) if index in done)
    progress.begin(len(rows), done=finished, unit="images")
    limits = limits_of(settings, len(rows))
    if limits["k_min"] > len(rows) / settings.clusters and settings.neighbors.mode != "ground_truth":
        progress.say(
            f"k_min = {limits['k_min']} is more than a class of {len(rows):,} / {settings.clusters} images has: "
            "neighbours will come from other classes; think of a lower neighbors.k_min"
        )
    found: list[FileInfo] = []
    if missing:
        submit = (
            _ground_truth(settings, store, rows, blocks)
            if settings.neighbors.mode == "ground_truth"
            else _search(settings, store, rows, blocks, resources, limits)
        )
        found = run_files(submit, missing, limit=4, finished=finished, progress=progress)
    found += described(store, [ARTIFACT], {info.path for info in found})
    counts = ray.get(_count.remote(store.root, [info.path for info in found], limits["k_min"]))
    progress.say(
        f"{counts['mean_neighbors']:.1f} neighbours on average ({counts['smallest']:,} to {counts['largest']:,}); "
        f"{counts['share_at_k_min']:.0%} of the images have no more than k_min = {limits['k_min']}"
    )
    return found, counts | limits


def limits_of(settings: Settings, n_images: int) -> dict[str, Any]:
    """threshold, k_min and k_max with defaults filled in."""
    chosen = settings.neighbors
    if chosen.mode == "fixed":
        return {"threshold": 1.0, "k_min": chosen.k_min, "k_max": chosen.k_min}
    k_max = chosen.k_max or core.default_k_max(n_images, settings.clusters, chosen.k_min)
    return {"threshold": chosen.threshold, "k_min": chosen.k_min, "k_max": k_max}


def _search(
    settings: Settings,
    store: Store,
    rows: FeatureRows,
    blocks: list[tuple[int, int]],
    resources: Resources,
    limits: dict[str, Any],
) -> Any:
    """Start the actors; returns the function that submits one block and gives the reference of its file."""
    count = settings.resources.neighbor_shards or (resources.gpus if resources.device == "cuda" else resources.nodes)
    edges = np.linspace(0, len(rows), min(count, len(rows)) + 1).astype(int).tolist()
    actor = _Shard.options(num_cpus=0.5, num_gpus=resources.gpu_share)
    shards: list[Any] = [
        actor.remote(rows, start, stop, resources.device, settings.neighbors.search, max(1, resources.cores // count))
        for start, stop in itertools.pairwise(edges)
    ]
    image_ids = _image_ids.remote(rows)

    write: Any = _write

    def submit(index: int) -> Any:
        start, stop = blocks[index]
        queries = _unit_rows.remote(rows, start, stop)
        lists = [shard.search.remote(queries, start, limits) for shard in shards]
        return write.remote(rows, index, start, image_ids, limits, *lists)

    return submit


def _ground_truth(settings: Settings, store: Store, rows: FeatureRows, blocks: list[tuple[int, int]]) -> Any:
    truth = ray.put(truth_of_rows(store, rows, settings.neighbors.labels or ""))
    write: Any = _write_ground_truth
    return lambda index: write.remote(rows, index, *blocks[index], truth)


@ray.remote(max_restarts=4, max_task_retries=4)
class _Shard:
    """One shard of the index: unit features of rows start ... stop - 1 on the device."""

    def __init__(self, rows: FeatureRows, start: int, stop: int, device: str, search: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.base = exact.unit_rows(torch.from_numpy(rows.features(start, stop)).to(device))
        self.start = start
        self.propose = _faiss(self.base) if search == "faiss" else None

    def search(self, queries: np.ndarray, first: int, limits: dict[str, Any]) -> tuple[np.ndarray, ...]:
        """Neighbour lists of these queries in this shard: offsets, row numbers, similarities."""
        block = torch.tensor(queries, device=self.base.device)  # Ray's arrays are read-only
        where = {"first_query": first, "first_base": self.start}
        lists = exact.search_shard(block, self.base, **where, **limits, propose=self.propose)
        return tuple(tensor.cpu().numpy() for tensor in (lists.offsets, lists.ids, lists.similarities))


def _faiss(base: torch.Tensor) -> exact.Proposer:
    """FAISS in the place of the core's own product, on the device of `base`."""
    from icce_ray.adapters.faiss_index import FaissCandidates

    index = FaissCandidates(base.cpu().numpy(), gpu=base.is_cuda)

    def propose(queries: torch.Tensor, *, own: torch.Tensor, **limits: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = index.pairs(queries.cpu().numpy(), own=own.cpu().numpy(), **limits)
        crow, cols = (torch.from_numpy(array).to(base.device) for array in pairs)
        return crow, cols

    return propose


@ray.remote(num_cpus=0.25)
def _unit_rows(rows: FeatureRows, start: int, stop: int) -> np.ndarray:
    return exact.unit_rows(torch.from_numpy(rows.features(start, stop))).numpy()


@ray.remote(num_cpus=0.25)
def _image_ids(rows: FeatureRows) -> np.ndarray:
    return rows.image_ids()


@ray.remote(num_cpus=0.25)
def _write(
    rows: FeatureRows, index: int, start: int, image_ids: np.ndarray, limits: dict[str, Any], *lists: Any
) -> FileInfo:
    """Merge the shards' lists of one block and write its file."""
    parts = [core.Neighbors(*(torch.tensor(array) for array in shard)) for shard in lists]
    return write_lists(rows, index, start, image_ids, core.merge(parts, **limits))


def write_lists(rows: FeatureRows, index: int, start: int, image_ids: np.ndarray, lists: core.Neighbors) -> FileInfo:
    """`neighbors/part-index.parquet` of the lists of rows start, start + 1, ..., with row numbers as image_ids."""
    offsets = pa.array(lists.offsets.numpy(), pa.int64())
    neighbor_ids = pa.LargeListArray.from_arrays(offsets, pa.array(image_ids[lists.ids.numpy()]))
    similarities = pa.LargeListArray.from_arrays(offsets, pa.array(lists.similarities.numpy()))
    table = rows.table(start, start + len(offsets) - 1, ["image_id", "key"])
    table = table.append_column("neighbor_ids", neighbor_ids).append_column("similarities", similarities)
    return Store(rows.root).storage.write_table(Store.part(ARTIFACT, index), table)


@ray.remote
def _write_ground_truth(rows: FeatureRows, index: int, start: int, stop: int, truth: np.ndarray) -> FileInfo:
    features = torch.from_numpy(rows.features())
    lists = exact.ground_truth(torch.tensor(truth), features, first_query=start, n_queries=stop - start)
    return write_lists(rows, index, start, rows.image_ids(), lists)


@ray.remote(num_cpus=0.25)
def _count(root: str, paths: list[str], k_min: int) -> dict[str, Any]:
    """What the lists look like: mean count, share filled up to k_min."""
    storage = Store(root).storage
    counts = np.concatenate([_lists(storage.read_table(path, ["neighbor_ids"]))[0] for path in paths])
    return {
        "images": len(counts),
        "mean_neighbors": float(counts.mean()),
        "smallest": int(counts.min()),
        "largest": int(counts.max()),
        "share_at_k_min": float((counts <= k_min).mean()),
    }


def _lists(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Length of each list of a part, and all its neighbour ids one after another."""
    lists = table["neighbor_ids"].combine_chunks()
    return np.diff(lists.offsets.to_numpy()), lists.flatten().to_numpy()


def load(root: str, rows: FeatureRows) -> core.Neighbors:
    """All neighbour lists of a run by row number, int32, on the CPU; no similarities: training needs none."""
    store = Store(root)
    image_ids = rows.image_ids()
    counts, places = [], []
    for info in store.require("neighbors").files:  # one part at a time: the whole as int64 may not fit
        count, ids = _lists(store.storage.read_table(info.path, ["neighbor_ids"]))
        counts.append(count)
        places.append(np.searchsorted(image_ids, ids).astype(np.int32))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return core.Neighbors(torch.from_numpy(offsets), torch.from_numpy(np.concatenate(places)), torch.empty(0))
