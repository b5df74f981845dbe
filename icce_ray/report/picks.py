"""Which images stand for each class on the page: the most certain, the least certain, and some at random.

Shards of labels are read one at a time and only the best of each class are kept, so memory grows with the classes.
Of large runs not all shards are looked at: pictures that lie in a few files are read from few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icce_ray.io.storage import FileInfo
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, PREDICTIONS

#: Kinds of picks, in the order in which a page that is nearly full takes them.
KINDS = ("typical", "least certain", "random")
#: Images that are looked at: so many a class, and at least so many in all.
LOOKED_AT_A_CLASS, LOOKED_AT = 100, 200_000
#: Odd constants of splitmix64 (Steele, Lea, Flood 2014).
_GAMMA, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Labelled:
    """Where a run keeps one label per image, and the share that says how sure it is."""

    artifact: str
    share: str
    """Name of its column."""
    files: tuple[FileInfo, ...]
    sizes: NDArray[np.int64]
    """int64[K], images of each class, all of them counted."""


@dataclass(frozen=True)
class Picks:
    """The images picked.

    Attributes:
        ids: int64[kinds, K, n], image_ids, -1 where a class has no more; best first.
        shares: float32[kinds, K, n], how sure the label is.
        seen: int64[K], images of each class looked at.
        mean_share: float64[K], mean share of those, NaN where there are none.
    """

    ids: NDArray[np.int64]
    shares: NDArray[np.float32]
    seen: NDArray[np.int64]
    mean_share: NDArray[np.float64]


def labelled(store: Store) -> Labelled | None:
    """The classifier's labels, or the consensus of a run that has no classifier yet; None before that."""
    for table, share, sizes in ((PREDICTIONS, "confidence", "class_sizes"), (CONSENSUS, "agreement", "cluster_sizes")):
        marker = store.marker(table.stage)
        if marker is not None:
            files = tuple(table.files(marker.files))
            return Labelled(table.path, share, files, np.asarray(marker.summary[sizes], np.int64))
    return None


def pick(store: Store, source: Labelled, n: int) -> Picks:
    """The `n` images of each kind and class, from shards spread over the run. The same run gives the same images."""
    classes = len(source.sizes)
    best = [_Best(classes, n) for _ in KINDS]
    seen, total = np.zeros(classes, np.int64), np.zeros(classes)
    for info in _looked_at(source.files, classes):
        table = store.storage.read_table(info.path, ["image_id", "label", source.share])
        ids, label = table["image_id"].to_numpy(), table["label"].to_numpy()
        share = table[source.share].to_numpy()
        for kept, score in zip(best, (share, -share, _drawn(ids)), strict=True):
            kept.add(score.astype(np.float64), label, ids, share)
        seen += np.bincount(label, minlength=classes)
        total += np.bincount(label, weights=share, minlength=classes)
    mean = np.divide(total, seen, out=np.full(classes, np.nan), where=seen > 0)
    return Picks(np.stack([kept.ids for kept in best]), np.stack([kept.shares for kept in best]), seen, mean)


def _looked_at(files: tuple[FileInfo, ...], classes: int) -> Iterator[FileInfo]:
    """All shards of a small run; of a large one as many as hold enough images, evenly spread, in their order."""
    enough = max(LOOKED_AT, LOOKED_AT_A_CLASS * classes)
    rows = sum(info.rows or 0 for info in files)
    if rows <= enough:
        yield from files
        return
    wanted = max(1, round(len(files) * enough / rows))
    for place in np.linspace(0, len(files) - 1, wanted).round().astype(int):
        yield files[place]


def _drawn(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each image_id that looks random and is always the same (splitmix64)."""
    mixed = ids.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX2)
    return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64


class _Best:
    """The `n` images of the highest score in each class, of all that were added; of equals the smaller image_id."""

    def __init__(self, classes: int, n: int) -> None:
        self.n = n
        self.scores = np.full((classes, n), -np.inf)
        self.ids = np.full((classes, n), -1, np.int64)
        self.shares = np.zeros((classes, n), np.float32)

    def add(
        self,
        score: NDArray[np.float64],
        label: NDArray[np.integer],
        ids: NDArray[np.int64],
        share: NDArray[np.floating],
    ) -> None:
        """Images of one shard: score, class, image_id and share, each [rows]."""
        kept_class, kept_place = np.nonzero(self.ids >= 0)
        score = np.concatenate([self.scores[kept_class, kept_place], score])
        label = np.concatenate([kept_class, label])
        share = np.concatenate([self.shares[kept_class, kept_place], share])
        ids = np.concatenate([self.ids[kept_class, kept_place], ids])
        order = np.lexsort((ids, -score, label))
        ranked = label[order]
        place = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        first = place < self.n
        order, at = order[first], (ranked[first], place[first])
        self.scores[at], self.ids[at], self.shares[at] = score[order], ids[order], share[order]
