"""One card per class: its figures, the classes that heads take for it, and small pictures, as many as there is room.

Of large runs not all shards of labels are looked at: pictures that lie in a few files are read from few of them.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject, thumbnail
from icce_ray.io.sources import SourceError
from icce_ray.progress import Progress
from icce_ray.report.labels import Classes, Labelled, evenly
from icce_ray.store import Store

#: Which images stand for a class, in the order in which a page that is nearly full takes them.
KINDS = ("typical", "least certain", "random")
#: Images that are looked at: so many a class, and at least so many in all.
LOOKED_AT_A_CLASS, LOOKED_AT = 100, 200_000
#: Classes named as the nearest, and the least chance that a head takes two images of both for one class.
NEAREST, LEAST_TOGETHER = 3, 0.01
#: Names longer than this are cut in the middle: an image may be called anything.
LONGEST_NAME = 120
#: Bytes of all small pictures of a page; in base64 they take a third more, and the whole page stays below 15 MB.
BUDGET = 6_500_000
#: Longest side in pixels by the number of classes, and how many of each kind a class shows at most.
_SIDES = ((60, 96), (300, 80))
_SMALLEST_SIDE = 64
MOST_OF_A_KIND = 10
#: Images read first, to know how many fit; images read at a time; threads that read and shrink them.
_PROBED, _BLOCK, _THREADS = 64, 128, 8


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


@dataclass(frozen=True)
class Pictures:
    """The images that are shown: their names, their small pictures as far as there are any, and a word about both."""

    text: str
    named: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """uri and key by image_id."""
    files: Mapping[int, bytes | Reject] = field(default_factory=dict)


def gallery(
    store: Store, source: Labelled, classes: Classes | None, names: dict[int, str], progress: Progress
) -> tuple[list[dict[str, Any]], str]:
    """Cards of all classes, as plain values for the page's script, and what is to be said of them."""
    picks = pick(store, source, MOST_OF_A_KIND)
    truth = store.metrics().get("evaluation", {}).get("classes", [])
    if len(truth) != len(source.sizes):
        truth = [None] * len(source.sizes)
    pictures = _pictures(store, source, picks, progress)
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
            "tiles": [
                _tiles(picks.ids[kind, label], picks.shares[kind, label], pictures) for kind in range(len(KINDS))
            ],
        }
        for label, size in enumerate(source.sizes.tolist())
    ]
    return cards, pictures.text


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


def _pictures(store: Store, source: Labelled, picks: Picks, progress: Progress) -> Pictures:
    try:
        images = RunImages(store)
    except SourceError as error:
        return Pictures(f"No pictures: {error}.")
    looked, every = int(picks.seen.sum()), int(source.sizes.sum())
    among = f"all {every:,} images" if looked == every else f"{looked:,} of {every:,} images, from shards evenly spread"
    text = f"Typical, least certain (by {source.share}) and random images of each class, among {among}."
    files, shown = {}, in_turn(picks)
    if images.has_pixels:
        longest = side(len(source.sizes))
        files = thumbnails(images, shown, longest, progress)
        shown = np.fromiter(files, np.int64, len(files))
        text += f" Neither side of a picture is above {longest} pixels here."
        missing = sum(isinstance(data, Reject) for data in files.values())
        text += f" {missing:,} pictures cannot be read any more." if missing else ""
    else:
        text += " The source holds features, so images are shown by name."
    rows = images.rows(shown).select(["image_id", "uri", "key"]).to_pylist()
    return Pictures(text, {row["image_id"]: row for row in rows}, files)


def _tiles(ids: NDArray[np.int64], shares: NDArray[np.float32], pictures: Pictures) -> list[dict[str, Any]]:
    tiles = []
    for image_id, share in zip(ids.tolist(), shares.tolist(), strict=True):
        if image_id not in pictures.named:
            continue
        row, data = pictures.named[image_id], pictures.files.get(image_id)
        tile: dict[str, Any] = {"uri": _cut(row["uri"]), "share": round(share, 4)}
        if row["key"] != row["uri"]:
            tile["key"] = _cut(row["key"])
        if isinstance(data, Reject):
            tile["missing"] = _cut(str(data))
        elif data is not None:
            tile["picture"] = base64.b64encode(data).decode()
        tiles.append(tile)
    return tiles


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


def _cut(text: str) -> str:
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def side(classes: int) -> int:
    """Longest side of the small pictures in pixels."""
    return next((pixels for most, pixels in _SIDES if classes <= most), _SMALLEST_SIDE)


def in_turn(picks: Picks) -> NDArray[np.int64]:
    """image_ids by rank, then kind, then class, each once."""
    order = picks.ids.transpose(2, 0, 1).reshape(-1)
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]


def thumbnails(
    images: RunImages, wanted: NDArray[np.int64], longest: int, progress: Progress, *, budget: int = BUDGET
) -> dict[int, bytes | Reject]:
    """WebP file, or why there is none, of each image_id `wanted`, as far as `budget` bytes reach.

    The first are served first, so `in_turn` gives every class some. What is read is what is shown, or nearly.
    """
    most = images.embed.max_pixels

    def small(one: tuple[int, bytes | Reject]) -> tuple[int, bytes | Reject]:
        image_id, data = one
        try:
            return image_id, data if isinstance(data, Reject) else thumbnail(data, longest=longest, max_pixels=most)
        except Reject as reject:
            return image_id, reject

    def made(ids: NDArray[np.int64]) -> Iterator[tuple[int, bytes | Reject]]:
        read = images.read(np.sort(ids), threads=_THREADS)
        with ThreadPoolExecutor(_THREADS) as pool:
            while block := list(itertools.islice(read, _BLOCK)):
                yield from pool.map(small, block)

    probed = wanted[:: max(1, len(wanted) // _PROBED)][:_PROBED]
    files = dict(made(probed))
    each = max(1.0, sum(map(_size, files.values())) / max(1, len(files)))
    rest = np.setdiff1d(wanted[: int(budget / each)], probed)
    progress.begin(len(files) + len(rest), unit="pictures")
    for image_id, data in made(rest):
        files[image_id] = data
        progress.update(len(files))
    in_order = [image_id for image_id in wanted.tolist() if image_id in files]
    spent = itertools.accumulate(_size(files[image_id]) for image_id in in_order)
    fitting = itertools.takewhile(lambda pair: pair[1] <= budget, zip(in_order, spent, strict=True))
    return {image_id: files[image_id] for image_id, _ in fitting}


def _size(data: bytes | Reject) -> int:
    return 0 if isinstance(data, Reject) else len(data)
