"""Head labels in shards: `core.consensus.ensemble.HeadRows` answered by Ray tasks.

The labels of each shard are read once and stay in the object store, a block of heads in each array, so that a task
takes what it needs: all shards of some heads, or all heads of a shard. The driver holds references, and what does not
grow with the number of images. Whatever a lost node held is made again by Ray from the files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import ray

from icce_ray.core.consensus import mcla, tally, votes
from icce_ray.core.consensus.clusters import Partitioner, check_labels, collapse, head_offsets, row_keys
from icce_ray.core.consensus.ensemble import HEADS_PER_ARRAY, IMAGES_PER_SHARD
from icce_ray.core.consensus.mcla import Overlaps, all_pairs, cluster_graph, overlaps
from icce_ray.core.consensus.tally import Split, Tally
from icce_ray.core.metrics import pair_counts
from icce_ray.io.storage import FileInfo
from icce_ray.stages.features import matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS

#: Rows are counted once for all images behind them if that leaves fewer than this share of them.
WORTH_COLLAPSING = 0.8

Label = list[Any]
"""References of a labelling, one int32[rows] a shard."""


class Shards:
    """The labels of a run's heads, read by tasks that start at once; `on_step` gets the name of every slow step."""

    def __init__(self, store: Store, on_step: Callable[[str], None]) -> None:
        self.on_step = on_step
        heads = store.require("heads")
        files = HEAD_LABELS.files(heads.files)
        self.parts = shards_of(files)
        self.arrays = blocks_of(heads.summary["heads"])
        on_step(f"{len(self.parts)} shards of head labels")
        load: Any = _load.options(num_returns=4 + len(self.arrays))
        loaded = [load.remote(store.root, [files[i].path for i in part], self.arrays) for part in self.parts]
        self.index, self.counts, self.keys = ([shard[i] for shard in loaded] for i in (1, 2, 3))
        self.columns = [shard[4:] for shard in loaded]
        """References int[heads, rows], by shard and block of heads."""
        self.n_images = sum(info.rows or 0 for info in files)
        self.present, self.head_sizes = _vocabulary([shard[0] for shard in loaded])
        self.offsets = head_offsets(self.head_sizes)

    @property
    def n_heads(self) -> int:
        """H."""
        return len(self.head_sizes)

    def distinct(self) -> int:
        """Number of distinct rows of labels, by their hashes."""
        return ray.get(_distinct.remote(*self.keys))

    def meta_clusters(
        self, n_clusters: int, partition: Partitioner, seed: int, imbalances: Sequence[float]
    ) -> list[np.ndarray]:
        """One table for each pair of heads, a task for the pairs of two blocks of heads; one graph, a task a cut."""
        mcla.check_clusters(int(self.present.sum()), n_clusters)
        blocks = [(i, j) for i in range(len(self.arrays)) for j in range(i, len(self.arrays))]
        self.on_step(f"tables of {len(all_pairs(self.n_heads))} pairs of heads")
        pieces = [self._overlaps(i, j) for i, j in blocks]
        ray.wait(pieces, num_returns=len(pieces), fetch_local=False)
        self.on_step("meta-clusters")
        graph = _graph.remote(self.present, *pieces)
        cut: Any = ray.remote(num_cpus=1)(mcla.meta_clusters)
        cuts = [cut.remote(graph, n_clusters, partition, seed, imbalance=imbalance) for imbalance in imbalances]
        return ray.get(cuts)

    def _overlaps(self, i: int, j: int) -> Any:
        first, second = self.arrays[i], self.arrays[j]
        pairs = [(g, h) for g, h in all_pairs(self.n_heads) if g in first and h in second]
        heads = [*first, *second] if i != j else list(first)
        arrays = [shard[block] for block in sorted({i, j}) for shard in self.columns]
        return _overlaps.remote(pairs, heads, self.offsets, len(self.parts), *self.counts, *arrays)

    def assign(self, meta: np.ndarray, n_clusters: int) -> Label:
        """One task per shard."""
        return self._of_shards(mcla.assign, self.offsets, meta, n_clusters)

    def tally(self, label: Label, n_clusters: int) -> Tally:
        """One task per block of heads."""
        self.on_step("labels against heads")
        return tally.concatenate_tallies(ray.get(self._of_heads(tally.tally, label, n_clusters)))

    def vote(self, label: Label, n_clusters: int) -> Label:
        """One task per block of heads for the ballots, then one per shard for the votes."""
        self.on_step("vote")
        ballots = self._of_heads(partial(votes.ballots, n_heads=self.n_heads), label, n_clusters)
        return self._of_shards(votes.vote, _concatenate_ballots.remote(*ballots), self.offsets)

    def split(self, label: Label, splits: Sequence[Split]) -> Label:
        """One task per shard."""
        self.on_step("labels that no image has")
        task, each = cast(Any, _of_shard), zip(label, self.columns, strict=True)
        return [task.remote(tally.apply_splits, len(columns), *columns, of, splits) for of, columns in each]

    def division_moments(self, label: Label, chosen: np.ndarray, counted: Tally) -> np.ndarray:
        """One task per shard."""
        self.on_step("labels that heads divide")
        clusters, task = ray.put(counted.split_cluster), cast(Any, _of_shard)
        parts = [
            task.remote(tally.division_moments, len(columns), *columns, of, chosen, clusters, counts)
            for of, counts, columns in zip(label, self.counts, self.columns, strict=True)
        ]
        return np.sum(ray.get(parts), axis=0)

    def _of_shards(self, function: Callable[..., np.ndarray], *shared: Any) -> Label:
        """A task per shard, on its labels under all heads and arguments that all shards share."""
        references = [item if isinstance(item, (ray.ObjectRef, int)) else ray.put(item) for item in shared]
        return [_of_shard.remote(function, len(columns), *columns, *references) for columns in self.columns]

    def _of_heads(self, function: Callable[..., Any], label: Label, n_clusters: int) -> list[Any]:
        """A task per block of heads, on their tables with the labelling."""
        arguments = [*label, *self.counts]
        blocks = [(self.head_sizes[heads.start : heads.stop], number) for number, heads in enumerate(self.arrays)]
        return [
            _of_tables.remote(function, sizes, n_clusters, *arguments, *(shard[number] for shard in self.columns))
            for sizes, number in blocks
        ]


def shards_of(files: Sequence[FileInfo]) -> list[range]:
    """Files of each shard, by number: neighbours, until they hold enough images."""
    starts, images = [0], 0
    for number, info in enumerate(files):
        if images and images + (info.rows or 0) > IMAGES_PER_SHARD:
            starts.append(number)
            images = 0
        images += info.rows or 0
    return [range(*edges) for edges in itertools.pairwise([*starts, len(files)])]


def blocks_of(n_heads: int) -> list[range]:
    """Heads of each array."""
    return [range(first, min(first + HEADS_PER_ARRAY, n_heads)) for first in range(0, n_heads, HEADS_PER_ARRAY)]


def _vocabulary(loaded: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Which clusters of the heads have images, bool[C], and int64[H] clusters of each head, from all shards."""
    seen: list[np.ndarray] = []
    for reference in loaded:
        of_shard = ray.get(reference)
        seen = of_shard if not seen else [np.union1d(*pair) for pair in zip(seen, of_shard, strict=True)]
    sizes = np.array([int(labels[-1]) + 1 for labels in seen], dtype=np.int64)
    present = np.zeros(int(sizes.sum()), dtype=bool)
    for start, labels in zip(head_offsets(sizes)[:-1], seen, strict=True):
        present[start + labels.astype(np.int64)] = True
    return present, sizes


@ray.remote(num_cpus=1)
def _load(root: str, paths: list[str], arrays: list[range]) -> tuple[Any, ...]:
    """One shard: labels seen of each head; the row of each image or None; images of each row or None; keys; labels."""
    storage = Store(root).storage
    labels = np.concatenate([matrix(storage.read_table(path, ["labels"])["labels"]) for path in paths])
    check_labels(labels)
    labels = labels.astype(np.min_scalar_type(int(labels.max())))
    rows = collapse(labels)
    keys, index, counts = row_keys(rows.labels), None, None
    if len(rows.labels) < WORTH_COLLAPSING * len(labels):
        labels, index, counts = rows.labels, rows.index.astype(np.int32), rows.counts
    columns = np.ascontiguousarray(labels.T)
    seen = [np.unique(column) for column in columns]
    return seen, index, counts, keys, *(columns[heads.start : heads.stop] for heads in arrays)


@ray.remote(num_cpus=1)
def _distinct(*keys: np.ndarray) -> int:
    return int(np.unique(np.concatenate(keys)).size)


@ray.remote(num_cpus=1)
def _overlaps(
    pairs: list[tuple[int, int]], heads: list[int], offsets: np.ndarray, shards: int, *arrays: Any
) -> Overlaps:
    """Overlaps of some pairs of heads; arrays: counts of each shard, then each block's labels of each shard."""
    counts, blocks = _counts(arrays[:shards], arrays[shards : 2 * shards]), []
    for first in range(shards, len(arrays), shards):
        blocks += [np.concatenate(of_head) for of_head in zip(*arrays[first : first + shards], strict=True)]
    return overlaps(dict(zip(heads, blocks, strict=True)), pairs, offsets, counts)


@ray.remote(num_cpus=1)
def _graph(present: np.ndarray, *pieces: Overlaps) -> Any:
    return cluster_graph(pieces, present)


@ray.remote(num_cpus=1)
def _of_shard(function: Callable[..., Any], blocks: int, *arguments: Any) -> Any:
    """A function of the labels of one shard, whose blocks of heads come first among the arguments."""
    return function(np.concatenate(arguments[:blocks]).T, *arguments[blocks:])


@ray.remote(num_cpus=1)
def _of_tables(function: Callable[[list[Any]], Any], sizes: np.ndarray, n_clusters: int, *arrays: Any) -> Any:
    """A function of the tables of some heads, of these sizes, with a labelling.

    `arrays` are the labelling of each shard, the counts of each, and the labels of these heads of each.
    """
    shards = len(arrays) // 3
    label, columns = np.concatenate(arrays[:shards]), arrays[2 * shards :]
    counts = _counts(arrays[shards : 2 * shards], columns)
    tables = [
        pair_counts(np.concatenate([shard[head] for shard in columns]), label, size, n_clusters, counts)
        for head, size in enumerate(sizes.tolist())
    ]
    return function(tables)


@ray.remote(num_cpus=1)
def _concatenate_ballots(*parts: votes.Ballots) -> votes.Ballots:
    return votes.concatenate_ballots(parts)


def _counts(of_shards: Sequence[np.ndarray | None], columns: Sequence[np.ndarray]) -> np.ndarray | None:
    """Images behind each row of all shards, None if that is one everywhere."""
    if all(counts is None for counts in of_shards):
        return None
    pairs = zip(of_shards, columns, strict=True)
    return np.concatenate([np.ones(c.shape[1], np.int64) if counts is None else counts for counts, c in pairs])
