"""One card per class: its figures, the classes that heads take for it, and the images that stand for it.

Of large runs not all shards of labels are looked at: pictures that lie in a few files are read from few of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.report.labels import Classes, Labelled, evenly
from icce_ray.report.pool import Section
from icce_ray.store import Store

#: Which images stand for a class, in the order in which a page that is nearly full takes them.
KINDS = ("typical", "least certain", "random")
#: Typical images that come before all others: the least that a card's cover should have.
COVER = 4
#: Images that are looked at: so many a class, and at least so many in all.
LOOKED_AT_A_CLASS, LOOKED_AT = 100, 200_000
#: Classes named as the nearest, and the least chance that a head takes two images of both for one class.
NEAREST, LEAST_TOGETHER = 3, 0.01
#: How many of each kind a class shows at most.
MOST_OF_A_KIND = 20


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


def gallery(store: Store, source: Labelled, classes: Classes | None, names: dict[int, str]) -> tuple[Section, str]:
    """Cards of all classes, and what is to be said of them."""
    picks = pick(store, source, MOST_OF_A_KIND)
    truth = store.metrics().get("evaluation", {}).get("classes", [])
    if len(truth) != len(source.sizes):
        truth = [None] * len(source.sizes)
    near = _nearest(classes.together) if classes is not None else [[]] * len(source.sizes)
    cards = [
        {
            "label": label,
            "name": names.get(label, ""),
            "size": size,
            "confidence": _number(picks.mean_share[label]),
            "agreement": _number(classes.agreement[label]) if classes is not None else None,
            "near": near[label],
            "truth": truth[label],
            "tiles": [ids[ids >= 0].tolist() for ids in picks.ids[:, label]],
        }
        for label, size in enumerate(source.sizes.tolist())
    ]
    looked, every = int(picks.seen.sum()), int(source.sizes.sum())
    among = f"all {every:,} images" if looked == every else f"{looked:,} of {every:,} images, from shards evenly spread"
    text = f"Typical, least certain (by {source.share}) and random images of each class, among {among}."
    return Section(cards, in_turn(picks), large=True, unnamed=True), text


def pick(store: Store, source: Labelled, n: int) -> Picks:
    """The `n` images of each kind and class, from shards spread over the run. The same run gives the same images."""
    classes, rows = len(source.sizes), sum(info.rows or 0 for info in source.files)
    files = evenly(source.files, max(LOOKED_AT, LOOKED_AT_A_CLASS * classes) / max(rows, 1))
    columns = ["image_id", "label", source.share]
    table = pa.concat_tables([store.storage.read_table(info.path, columns) for info in files]).sort_by("image_id")
    ids, label, share = (table[name].to_numpy() for name in columns)
    scores = (-share, share, np.random.default_rng(0).random(len(ids)))
    best = np.stack([_first(label, score, classes, n) for score in scores])
    seen, total = (np.bincount(label, weights, minlength=classes) for weights in (None, share))
    mean = np.divide(total, seen, out=np.full(classes, np.nan), where=seen > 0)
    return Picks(np.append(ids, -1)[best], np.append(share, np.float32(0))[best], seen, mean)


def _first(label: NDArray[np.integer], score: NDArray[np.floating], classes: int, n: int) -> NDArray[np.int64]:
    """int64[classes, n], the rows of the lowest score in each class, of equals the first; -1 where there is none."""
    order = np.lexsort((score, label))
    ranked = label[order]
    place = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    rows, kept = np.full((classes, n), -1), place < n
    rows[ranked[kept], place[kept]] = order[kept]
    return rows


def _nearest(together: NDArray[np.float32]) -> list[list[tuple[int, float]]]:
    """(class, chance) of the classes that heads most often take for each, clearest first."""
    others = together.copy()
    np.fill_diagonal(others, 0.0)
    order = np.argsort(-others, axis=1, kind="stable")[:, :NEAREST]
    chances = np.take_along_axis(others, order, axis=1)
    return [
        [(other, round(chance, 4)) for other, chance in zip(row, values, strict=True) if chance >= LEAST_TOGETHER]
        for row, values in zip(order.tolist(), chances.tolist(), strict=True)
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def in_turn(picks: Picks) -> NDArray[np.int64]:
    """image_ids, each once: the covers, then by rank, kind and class."""
    covers = picks.ids[0, :, :COVER].T.reshape(-1)
    order = np.concatenate([covers, picks.ids.transpose(2, 0, 1).reshape(-1)])
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]
