"""One card per class: its figures, the classes that heads take for it, and the images that stand for it.

Of large runs not all shards of labels are looked at: pictures that lie in a few files are read from few of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.report.labels import Labelled, by_rank
from icce_ray.report.pool import Section
from icce_ray.store import Store
from icce_ray.store.artifacts import TRUE_EXAMPLES, Hierarchy
from icce_ray.store.shards import evenly

#: Which images stand for a class, in the order in which a page that is nearly full takes them.
KINDS = ("typical", "least certain", "random")
#: Typical images that come before all others: the least that a card's cover should have.
COVER = 4
#: Images that are looked at: so many a class, and at least so many in all.
LOOKED_AT_A_CLASS, LOOKED_AT = 100, 200_000
#: How many of each kind a class shows at most.
MOST_OF_A_KIND = 20
#: What is said of a run of 0.1.0.
NO_BORDERS = (
    "Borders between classes need the second most probable class of each image, which an earlier version did not keep; "
    "--redo predict with the command of the run adds it."
)
#: Images on each side of the border to the nearest class.
ON_A_BORDER = 12


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


def gallery(store: Store, source: Labelled, classes: Hierarchy | None, names: dict[int, str]) -> tuple[Section, str]:
    """Cards of all classes, and what is to be said of them."""
    table = looked_at(store, source)
    picks = pick(table, len(source.sizes), MOST_OF_A_KIND)
    truth = store.metrics().get("evaluation", {}).get("classes", [])
    if len(truth) != len(source.sizes):
        truth = [None] * len(source.sizes)
    near = classes["nearest"] if classes is not None else [[]] * len(source.sizes)
    true = true_classes(store)
    border = borders(table, near, ON_A_BORDER)
    cards = [
        {
            "label": label,
            "name": names.get(label, ""),
            "size": size,
            "confidence": _number(picks.mean_share[label]),
            "agreement": classes["agreement"][label] if classes is not None else None,
            "near": near[label],
            "truth": truth[label],
            "tiles": [ids[ids >= 0].tolist() for ids in picks.ids[:, label]],
            "border": border.get(label),
            "true": true.get(label, []),
        }
        for label, size in enumerate(source.sizes.tolist())
    ]
    looked, every = int(picks.seen.sum()), int(source.sizes.sum())
    among = f"all {every:,} images" if looked == every else f"{looked:,} of {every:,} images, from shards evenly spread"
    text = f"Typical, least certain (by {source.share}) and random images of each class, among {among}."
    if source.share == "confidence" and table["runner_up"].null_count:
        text += f" {NO_BORDERS}"
    on_borders = [ids for one in border.values() for ids in one[1:]]
    of_truth = [ids for some in true.values() for _, ids in some]
    wanted = np.concatenate([in_turn(picks), by_rank(on_borders), by_rank(of_truth)])
    return Section(cards, wanted, large=True, unnamed=True), text


def true_classes(store: Store) -> dict[int, list[tuple[str, list[int]]]]:
    """(name, image_ids) of the true classes in each class, most frequent first, from the last evaluation."""
    if not store.storage.exists(TRUE_EXAMPLES):
        return {}
    found: dict[int, dict[str, list[int]]] = {}
    for row in store.storage.read_table(TRUE_EXAMPLES).to_pylist():
        found.setdefault(row["label"], {}).setdefault(row["true"], []).append(row["image_id"])
    return {label: list(some.items()) for label, some in found.items()}


def shown(cards: list[dict[str, Any]], images: Mapping[int, Any]) -> list[dict[str, Any]]:
    """The cards with those of their images that the page has, and that are still of their class."""

    def of(one: dict[str, Any]) -> dict[str, Any]:
        def among(ids: list[int]) -> list[int]:
            return [image_id for image_id in ids if image_id in images]

        border, true = one["border"], []
        for name, ids in one["true"]:
            true += [(name, own)] if (own := [i for i in among(ids) if images[i]["label"] == one["label"]]) else []
        return one | {
            "tiles": [among(ids) for ids in one["tiles"]],
            "border": border and (border[0], *map(among, border[1:])),
            "true": true,
        }

    return [of(one) for one in cards]


def looked_at(store: Store, source: Labelled) -> pa.Table:
    """Rows of the labels from shards spread over the run, by image_id: it, label, share, runner_up, runner_up_share."""
    classes, rows = len(source.sizes), sum(info.rows or 0 for info in source.files)
    files = evenly(source.files, max(LOOKED_AT, LOOKED_AT_A_CLASS * classes) / max(rows, 1))
    tables = [source.read(store, info).drop_columns(["uri", "key"]) for info in files]
    return pa.concat_tables(tables).sort_by("image_id")


def pick(table: pa.Table, classes: int, n: int) -> Picks:
    """The `n` images of each kind and class among those looked at. The same table gives the same images."""
    ids, label, share = (table[name].to_numpy() for name in ("image_id", "label", "share"))
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


def borders(
    table: pa.Table, near: Sequence[Sequence[tuple[int, float]]], n: int
) -> dict[int, tuple[int, list[int], list[int]]]:
    """By class: the nearest one, image_ids of the class whose runner-up that is, and of that whose runner-up it is.

    The `n` most torn ones of both. A class is left out where `near` has none for it, or no image lies there.
    """
    if table["runner_up"].null_count:
        return {}
    ids, label, second, share = (
        table[name].to_numpy() for name in ("image_id", "label", "runner_up", "runner_up_share")
    )
    towards = label.astype(np.int64) * len(near) + second
    order = np.lexsort((-share, towards))
    sorted_towards = towards[order]

    def between(one: int, other: int) -> list[int]:
        first, last = np.searchsorted(sorted_towards, [one * len(near) + other, one * len(near) + other + 1])
        return ids[order[first : min(last, first + n)]].tolist()

    nearest = {label: others[0][0] for label, others in enumerate(near) if others}
    found = {one: (other, between(one, other), between(other, one)) for one, other in nearest.items()}
    return {label: one for label, one in found.items() if one[1] or one[2]}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def in_turn(picks: Picks) -> NDArray[np.int64]:
    """image_ids, each once: the covers, then by rank, kind and class."""
    covers = picks.ids[0, :, :COVER].T.reshape(-1)
    order = np.concatenate([covers, picks.ids.transpose(2, 0, 1).reshape(-1)])
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]
