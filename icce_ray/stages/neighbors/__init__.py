"""Stage `neighbors`: adaptive neighbour lists from an index on actors (paper 3.1).

Each actor of `index` holds the unit features, or a part of them where all do not fit (`layout`). A block of queries is
read once and goes to one actor, or to one for each part, by reference; a task merges what parts give to the lists of
one index and writes them. The driver sees files and counts only. Exact lists are the same on any number of actors of
one kind of hardware; so are those of inverted lists, which belong to a fixed number of rows and not to an actor, but
these miss some neighbours: how many is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.exceptions import RayTaskError

from icce_ray.core.neighbors import Limits, Neighbors, default_k_max, merge
from icce_ray.io.storage import FileInfo
from icce_ray.progress import PartProgress, Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed, completed_groups, write_shards
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors.auto import find_numbers
from icce_ray.stages.neighbors.index import Arrays, ShardedIndex, as_lists
from icce_ray.stages.neighbors.inputs import inputs, joined_inputs, weights_of
from icce_ray.stages.neighbors.layout import Demand, check_search, layout_of, memory_of_devices
from icce_ray.stages.truth import truth_of_rows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS, PROJECTION, SPACE_WEIGHTS
from icce_ray.store.views import JOINED, figures_of, spaces_of

#: Of the table from image_ids to rows: its intervals for each row, 64 bytes a row, and the most rows of an interval.
_INTERVALS, _MOST_STEPS = 16, 16


@contextlib.contextmanager
def _without_trace() -> Iterator[None]:
    """What a task says of its input as RunError, without the task's trace."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, (RunError, ValueError)):
            raise RunError(str(error.cause)) from error
        raise


@_without_trace()
def run(
    settings: Settings, store: Store, resources: Resources, progress: Progress, rows: FeatureRows | None = None
) -> StageResult:
    """Mine the neighbours of every block of images whose shard is not there yet.

    `rows` are those of another store, whose neighbours a sweep keeps in a place of its own, with settings that have all
    numbers; by default the store's, whose inputs and numbers are found first. Of several feature spaces there are lists
    in each; the figures are those of the joined space, which alone tells the number of clusters, with the others'
    `by_space`.
    """
    if rows is not None:
        return _list_neighbors(settings, store, rows, resources, progress)
    spaces = spaces_of(store.require("embed").summary)
    found = {space: inputs(settings, store, space) for space in spaces if space != JOINED}
    if JOINED not in spaces:
        return _run_space(settings, store, *found[""], resources, progress)
    each = {space: rows for space, (rows, _) in found.items()}
    weights = weights_of(settings, store, each)
    progress.log(f"weights of the feature spaces: {', '.join(f'{name} {one:.2f}' for name, one in weights.items())}")
    unprojected = settings.neighbors.model_copy(update={"components": 0})  # it is made of what is seen of the others
    files, figures = _run_space(
        settings.model_copy(update={"neighbors": unprojected}),
        store,
        *joined_inputs(store, each, weights),
        resources,
        PartProgress(progress, 0, len(spaces)),
    )
    settings, by_space = settings.model_copy(update={"clusters": figures.get("clusters", settings.clusters)}), {}
    for number, (space, own) in enumerate(found.items(), 1):
        part = PartProgress(progress, number, len(spaces))
        more, by_space[space] = _run_space(settings, store, *own, resources, part)
        by_space[space]["weight"] = weights[space]
        files += more
    return [*files, store.storage.describe(SPACE_WEIGHTS.path)], figures | {"by_space": by_space}


def _run_space(
    settings: Settings,
    store: Store,
    rows: FeatureRows,
    facts: dict[str, Any],
    resources: Resources,
    progress: Progress,
) -> StageResult:
    """Find the numbers for the only feature space, or for one of several, and mine its lists."""
    if rows.space:
        progress.log(f"feature space {rows.space}: {facts['dim']:,} numbers an image")
    count_unknown = settings.count_unknown
    settings, evidence = find_numbers(settings, store, rows, facts, resources, progress)
    written, summary = _list_neighbors(settings, store, rows, resources, progress)
    components = settings.neighbors.components
    evidence += [PROJECTION.of(rows.space).path] if components else []
    written += [store.storage.describe(path) for path in evidence]
    summary |= {name: facts[name] for name in ("dim", "mean_cosine")} | {"components": components}
    return written, summary | ({"clusters": settings.clusters} if count_unknown else {})


def _list_neighbors(
    settings: Settings, store: Store, rows: FeatureRows, resources: Resources, progress: Progress
) -> StageResult:
    """The lists of settings with all numbers, and what they look like."""
    limits = limits_of(settings, len(rows))
    if limits.k_min > len(rows) / settings.clusters and settings.neighbors.mode != "ground_truth":
        progress.log(
            f"k_min = {limits.k_min} is more than a class of {len(rows):,} / {settings.clusters} images has: "
            "neighbours will come from other classes; think of a lower neighbors.k_min"
        )
    written, measured = _mine(settings, store, rows, resources, progress)
    summary = _count_lists(store, written, limits.k_min)
    progress.log(
        f"{summary['mean_neighbors']:.1f} neighbours on average ({summary['smallest']:,} to {summary['largest']:,}); "
        f"{summary['share_at_k_min']:.0%} of the images have no more than k_min = {limits.k_min}"
    )
    return written, summary | asdict(limits) | measured


def limits_of(settings: Settings, n_images: int) -> Limits:
    """The limits that the settings ask for among so many images. RunError if the threshold is not found yet."""
    chosen = settings.neighbors
    if chosen.mode == "fixed":
        return Limits(1.0, chosen.k_min, chosen.k_min)
    if chosen.threshold == "auto":
        raise RunError(
            "neighbors.threshold = auto: a sweep compares numbers; complete the stage neighbors, whose number is then "
            "taken, or add --param neighbors.threshold=0.3:0.7:0.1"
        )
    k_max = chosen.k_max or default_k_max(n_images, settings.clusters, chosen.k_min)
    return Limits(chosen.threshold, chosen.k_min, k_max)


def _mine(settings: Settings, store: Store, rows: FeatureRows, resources: Resources, progress: Progress) -> StageResult:
    """All files of the lists, and what was measured on the way."""
    starts = range(0, len(rows), settings.neighbors.rows_per_shard)
    stops = [min(start + starts.step, len(rows)) for start in starts]
    limits, truth, measured = limits_of(settings, len(rows)), None, {}
    if settings.neighbors.mode == "ground_truth":
        # All images of the class, however far and however many.
        limits = Limits(-1.0, 1, len(rows))
        truth = _truth.remote(rows, settings.neighbors.labels or "")
    approximate = truth is None and settings.neighbors.search == "ivf"

    def write(missing: list[int]) -> Iterator[list[FileInfo]]:
        if not (missing or approximate):
            return
        check_search(settings, len(rows), resources)
        layout = layout_of(
            _demand(settings, rows, limits), resources, memory_of_devices(resources), settings.resources.neighbor_shards
        )
        index = ShardedIndex(rows, settings, resources, layout, truth)
        if approximate:
            measured.update(index.check_recall(settings.neighbors, limits, progress))
        image_ids, task = _image_ids.remote(rows), cast(Any, _write_merged)

        def submit(block: int) -> Any:
            lists = index.search(starts[block], stops[block], limits)
            return task.remote(store.root, rows, block, starts[block], image_ids, limits, *lists)

        # A block waits in every copy's queue while others are written: more nodes write more at a time.
        yield from completed(map(submit, missing), lambda: 2 * layout.copies + 2 * resources.nodes)

    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return write_shards(store, NEIGHBORS.of(rows.space), sizes, write, progress), measured


def _demand(settings: Settings, rows: FeatureRows, limits: Limits) -> Demand:
    """What the index must serve."""
    chosen = settings.neighbors
    search = "ground_truth" if chosen.mode == "ground_truth" else chosen.search
    return Demand(len(rows), rows.width(), search, limits.k_max, chosen.rows_per_shard)


@ray.remote(num_cpus=0.25)
def _truth(rows: FeatureRows, location: str) -> np.ndarray:
    """Class of every image, int64[N]. Raises RunError where one has none, or its class to itself."""
    truth = truth_of_rows(rows, location)
    alone = np.flatnonzero(np.bincount(truth)[truth] == 1)
    if len(alone):
        raise RunError(
            f"{location}: {rows.table(int(alone[0]), int(alone[0]) + 1, ['uri'])['uri'][0]} is alone in its class, so "
            f"it has no ground-truth neighbour ({len(alone)} such images); give every class at least 2 images"
        )
    return truth


@ray.remote(num_cpus=0.25)
def _image_ids(rows: FeatureRows) -> np.ndarray:
    """image_id of every row, int64[N]."""
    return rows.image_ids()


@ray.remote(num_cpus=0.25)
def _write_merged(
    root: str, rows: FeatureRows, index: int, start: int, image_ids: np.ndarray, limits: Limits, *shards: Arrays
) -> list[FileInfo]:
    """Merge the shards' lists of one block and write its file below `root`, with image_ids in place of row numbers."""
    merged = merge([as_lists(arrays) for arrays in shards], limits)
    table = rows.table(start, start + len(merged.counts), ["image_id", "key"])
    for name, column in list_columns(merged, image_ids).items():
        table = table.append_column(name, column)
    return [NEIGHBORS.of(rows.space).write(Store(root).storage, table, index)]


def list_columns(lists: Neighbors, image_ids: np.ndarray) -> dict[str, pa.LargeListArray]:
    """Columns of the stored table: neighbour lists on the CPU with the image_id of each row, int64[N], for its id."""
    offsets = pa.array(lists.offsets.numpy(), pa.int64())
    values = {"neighbor_ids": image_ids[lists.ids.numpy()], "similarities": lists.similarities.numpy()}
    return {name: pa.LargeListArray.from_arrays(offsets, pa.array(column)) for name, column in values.items()}


def _count_lists(store: Store, files: list[FileInfo], k_min: int) -> dict[str, Any]:
    """What the lists look like: how many neighbours, the share of images filled up to k_min."""
    paths = [info.path for info in files]
    counts = completed_groups(lambda group: _count.remote(store.root, group, k_min), paths, cpus=0.25)
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
def _count(root: str, paths: Sequence[str], k_min: int) -> tuple[int, int, int, int, int]:
    """Of some files: images, pairs, images with no more than k_min, the shortest and the longest list."""
    storage = Store(root).storage
    counts = np.concatenate([np.diff(_offsets(storage.read_table(path, ["neighbor_ids"]))) for path in paths])
    return len(counts), int(counts.sum()), int((counts <= k_min).sum()), int(counts.min()), int(counts.max())


def _offsets(table: pa.Table) -> np.ndarray:
    return table["neighbor_ids"].combine_chunks().offsets.to_numpy()


def load(root: str, rows: FeatureRows, similarities: bool = False) -> Neighbors:
    """All neighbour lists of a run, in the space of the rows, by row number, int32, on the CPU.

    `similarities` also loads these, float32: `core.neighbors.apply_limits` needs them, training does not. The memory is
    that of the lists and of one file. Raises RunError for lists that an older version mined.
    """
    store = Store(root)
    marker = store.require("neighbors")
    if "pairs" not in marker.summary:
        raise RunError(f"the neighbours of {root} were mined by an older version; mine them again: --redo neighbors")
    row_of, figures = row_numbers(rows.image_ids()), figures_of(marker.summary, rows.space)
    offsets = torch.zeros(figures["images"] + 1, dtype=torch.int64)
    ids = torch.empty(figures["pairs"], dtype=torch.int32)
    values = torch.empty(len(ids) if similarities else 0)
    columns = ["neighbor_ids", "similarities"] if similarities else ["neighbor_ids"]
    row = pair = 0
    for info in NEIGHBORS.of(rows.space).files(marker.files):
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

    A subtraction where ids have no gap; else a table of the first place in each of at most 16 N intervals of ids, from
    which the few ids that are not the first go on one by one. A search, which takes many times as long, only where
    some interval holds many, as of ids far apart from the rest.
    """
    first, span = int(image_ids[0]), int(image_ids[-1] - image_ids[0]) + 1
    if span == len(image_ids):
        return lambda ids: ids - first
    shift = max(0, (span // (_INTERVALS * len(image_ids))).bit_length())
    intervals = (image_ids - first) >> shift
    begins = np.flatnonzero(np.diff(intervals, prepend=-1))
    most = int(np.diff(begins, append=len(image_ids)).max())
    if most > _MOST_STEPS:
        return lambda ids: np.searchsorted(image_ids, ids)
    table = np.zeros(int(intervals[-1]) + 1, np.int32)
    table[intervals[begins]] = begins

    def numbers(ids: np.ndarray) -> np.ndarray:
        places = np.take(table, (ids - first) >> shift, mode="clip")
        late = np.flatnonzero(image_ids[places] != ids) if most > 1 else places[:0]
        for _ in range(most - 1):
            places[late] += 1
            late = late[image_ids[places[late]] != ids[late]]
        return places

    return numbers
