"""The images that a page shows, each once: names, labels and small pictures, whatever sections ask for them.

Sections of the page name images by image_id only. Their pictures are read in one pass, within the bytes of the page.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject, thumbnail
from icce_ray.io.sources import SourceError
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.report.labels import Labelled, by_rank
from icce_ray.store import Store
from icce_ray.store.artifacts import NEIGHBORS, PREDICTIONS
from icce_ray.store.shards import evenly
from icce_ray.store.views import spaces_of

#: Names longer than this are cut in the middle: an image may be called anything.
LONGEST_NAME = 120
#: Bytes of all small pictures of a page; in base64 they take a third more, and the whole page stays below 15 MB.
BUDGET = 6_000_000
#: Longest side of a picture in pixels: the first with which the budget reaches all that `large` sections want.
SIDES = (320, 256, 192, 160, 128, 96, 80, 64)
#: Longest side of pictures that would show nothing but their pixels if they were drawn large.
ICON = 64
#: Nearest images that are looked for, those that get a picture where there is room, and shown at most; bytes read.
NEAR, WANTED_NEAR, SHOWN_NEAR, NEIGHBOR_BYTES = 24, 4, 12, 500_000_000
#: Side of the pictures that are read first, to know how many fit, and how fast the bytes grow with the side.
_PROBED_SIDE, _GROWTH = 160, 1.6
#: Images read first, to know how many fit; images read at a time; threads that read and shrink them.
_PROBED, _BLOCK, _THREADS = 64, 128, 8


@dataclass(frozen=True)
class Section:
    """What a part of the page shows.

    Attributes:
        data: plain values for its JSON element, images by image_id.
        wanted: int64[n], the image_ids whose pictures it shows, most important first.
        large: whether these pictures decide how large all are.
        unnamed: whether images without a picture are left out of the page. Else they are shown by name.
    """

    data: Any
    wanted: NDArray[np.int64]
    large: bool = False
    unnamed: bool = False


@dataclass(frozen=True)
class Pool:
    """What `data-images` holds: values by image_id; a word about the pictures; whether all have very few pixels."""

    images: Mapping[int, dict[str, Any]]
    text: str
    icons: bool


def pool(store: Store, source: Labelled, sections: Sequence[Section], progress: Progress) -> Pool:
    """Names, labels and pictures of what the sections want; those of earlier sections come first."""
    large = _distinct([one.wanted for one in sections if one.large])
    near = neighbors_of(store, large)
    first = _distinct([by_rank([[other for other, _ in others[:WANTED_NEAR]] for others in near.values()])])
    wanted = _distinct([*(one.wanted for one in sections), first])
    files, text = _files(store, wanted, large, progress)
    pictures = bool(files)
    kept = _distinct([one.wanted for one in sections if not (one.unnamed and pictures)])
    ids = np.union1d(kept, np.fromiter(files, np.int64, len(files)))
    rows = _rows(store, source, ids).to_pylist() if len(ids) else []
    images = {row["image_id"]: _entry(row, files.get(row["image_id"])) for row in rows}
    for image_id in near.keys() & images.keys():
        known = [[other, share] for other, share in near[image_id] if other in files]
        if known:
            images[image_id]["near"] = known[:SHOWN_NEAR]
    return Pool(images, text, icons=_largest(files) <= ICON)


def _largest(files: Mapping[int, bytes | Reject]) -> int:
    """Longest side among some of the pictures; 0 where there are none."""
    some = [data for data in itertools.islice(files.values(), _PROBED) if not isinstance(data, Reject)]
    return max((max(Image.open(io.BytesIO(data)).size) for data in some), default=0)


def _distinct(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Values of all parts in their order, each where it is first."""
    joined = np.concatenate([np.empty(0, np.int64), *parts])
    _, first = np.unique(joined, return_index=True)
    return joined[np.sort(first)]


def _files(
    store: Store, wanted: NDArray[np.int64], large: NDArray[np.int64], progress: Progress
) -> tuple[dict[int, bytes | Reject], str]:
    try:
        images = RunImages(store)
    except SourceError as error:
        return {}, f"No pictures: {error}."
    if not images.has_pixels:
        return {}, "The source holds features, so images are shown by name."
    longest = side(images, large)
    files = thumbnails(images, wanted, longest, progress)
    missing = sum(isinstance(data, Reject) for data in files.values())
    text = f"Neither side of a picture is above {longest} pixels here."
    return files, text + (f" {missing:,} pictures cannot be read any more." if missing else "")


def _rows(store: Store, source: Labelled, ids: NDArray[np.int64]) -> pa.Table:
    """Rows of the labels with these image_ids."""

    def read(info: FileInfo) -> pa.Table:
        table = source.read(store, info)
        return table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids)))

    with ThreadPoolExecutor(_THREADS) as threads:
        tables = list(threads.map(read, holding(store, source.files, ids)))
    return pa.concat_tables(tables)


def holding(store: Store, files: Sequence[FileInfo], ids: NDArray[np.int64]) -> list[FileInfo]:
    """The shards of a table of labels or neighbours that may hold these image_ids.

    Tables of all accepted images have them in their order: before an image stand as many as its image_id, less some of
    the rejected. Of a sample it may be any shard.
    """
    if store.sampled() and not (files and PREDICTIONS.holds(files[0].path)):
        return list(files)
    rejected, ends = store.require("embed").summary["rejected"], np.cumsum([info.rows or 0 for info in files])
    first = np.searchsorted(ends, np.maximum(ids - rejected, 0), side="right")
    last = np.searchsorted(ends, ids, side="right")
    held = np.zeros(len(ends) + 1, np.int64)
    np.add.at(held, np.minimum(first, len(ends)), 1)
    np.add.at(held, np.minimum(last + 1, len(ends)), -1)
    return [info for info, count in zip(files, held.cumsum(), strict=False) if count > 0]


def neighbors_of(store: Store, ids: NDArray[np.int64]) -> dict[int, list[tuple[int, float]]]:
    """(image_id, cosine similarity) of the nearest images of each of these, nearest first, as far as the run has them.

    Of a large sample, some of the shards only.
    """
    marker = store.marker("neighbors")
    if marker is None or not len(ids):
        return {}
    files = NEIGHBORS.of(spaces_of(store.require("embed").summary)[-1]).files(marker.files)
    files = holding(store, files, ids)
    files = evenly(files, NEIGHBOR_BYTES / max(1, sum(info.bytes for info in files)))
    found: dict[int, list[tuple[int, float]]] = {}
    for info in files:
        table = store.storage.read_table(info.path, ["image_id", "neighbor_ids", "similarities"])
        for row in table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids))).to_pylist():
            pairs = zip(row["neighbor_ids"][:NEAR], row["similarities"][:NEAR], strict=True)
            found[row["image_id"]] = [(other, round(share, 4)) for other, share in pairs]
    return found


def _entry(row: Mapping[str, Any], data: bytes | Reject | None) -> dict[str, Any]:
    """One image for the page's script."""
    entry: dict[str, Any] = {"uri": cut(row["uri"]), "label": row["label"], "share": round(row["share"], 4)}
    if row["key"] != row["uri"]:
        entry["key"] = cut(row["key"])
    if row["key"] != cut(row["key"]):
        entry["whole"] = row["key"]  # decisions name images by it
    if row["runner_up"] is not None:
        entry["second"] = [row["runner_up"], round(row["runner_up_share"], 4)]
    if isinstance(data, Reject):
        entry["missing"] = cut(str(data))
    elif data is not None:
        entry["picture"] = base64.b64encode(data).decode()
    return entry


def cut(text: str) -> str:
    """A name as the page shows it."""
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def side(images: RunImages, wanted: NDArray[np.int64], *, budget: int = BUDGET) -> int:
    """Longest side of the pictures in pixels: the largest of SIDES with which all `wanted` fit into the budget."""
    probed = _probed(wanted)
    files = dict(_made(images, probed, _PROBED_SIDE))
    each = sum(map(_size, files.values())) / max(1, len(files))
    most = budget / max(1, len(wanted))
    return next((one for one in SIDES if each * (one / _PROBED_SIDE) ** _GROWTH <= most), SIDES[-1])


def _probed(wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    return wanted[:: max(1, len(wanted) // _PROBED)][:_PROBED]


def _made(images: RunImages, ids: NDArray[np.int64], longest: int) -> Iterator[tuple[int, bytes | Reject]]:
    """(image_id, WebP file or why there is none)."""
    most = images.embed.max_pixels

    def small(one: tuple[int, bytes | Reject]) -> tuple[int, bytes | Reject]:
        image_id, data = one
        try:
            return image_id, data if isinstance(data, Reject) else thumbnail(data, longest=longest, max_pixels=most)
        except Reject as reject:
            return image_id, reject

    read = images.read(np.sort(ids), threads=_THREADS)
    with ThreadPoolExecutor(_THREADS) as threads:
        while block := list(itertools.islice(read, _BLOCK)):
            yield from threads.map(small, block)


def thumbnails(
    images: RunImages, wanted: NDArray[np.int64], longest: int, progress: Progress, *, budget: int = BUDGET
) -> dict[int, bytes | Reject]:
    """WebP file, or why there is none, of each image_id `wanted`, as far as `budget` bytes reach.

    The first are served first. What is read is what is shown, or nearly.
    """
    probed = _probed(wanted)
    files = dict(_made(images, probed, longest))
    each = max(1.0, sum(map(_size, files.values())) / max(1, len(files)))
    rest = np.setdiff1d(wanted[: int(budget / each)], probed)
    progress.begin(len(files) + len(rest), unit="pictures")
    for image_id, data in _made(images, rest, longest):
        files[image_id] = data
        progress.update(len(files))
    in_order = [image_id for image_id in wanted.tolist() if image_id in files]
    spent = itertools.accumulate(_size(files[image_id]) for image_id in in_order)
    fitting = itertools.takewhile(lambda pair: pair[1] <= budget, zip(in_order, spent, strict=True))
    return {image_id: files[image_id] for image_id, _ in fitting}


def _size(data: bytes | Reject) -> int:
    return 0 if isinstance(data, Reject) else len(data)
