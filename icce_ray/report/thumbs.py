"""Small pictures of the picked images, as many as the page has room for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from icce_ray.export.images import RunImages
from icce_ray.io.decode import Reject, thumbnail
from icce_ray.progress import Progress
from icce_ray.report.picks import Picks

#: Bytes of all small pictures of a page; in base64 they take a third more, and the whole page stays below 15 MB.
BUDGET = 6_500_000
#: Longest side in pixels by the number of classes, and how many of each kind a class shows at most.
_SIDES = ((60, 96), (300, 80))
_SMALLEST_SIDE = 64
MOST_OF_A_KIND = 10
#: Images read first, to know how many fit.
_PROBED = 64
_BLOCK = 128


def side(classes: int) -> int:
    """Longest side of the small pictures in pixels."""
    return next((pixels for most, pixels in _SIDES if classes <= most), _SMALLEST_SIDE)


def thumbnails(
    images: RunImages,
    wanted: NDArray[np.int64],
    longest: int,
    progress: Progress,
    *,
    max_pixels: int,
    budget: int = BUDGET,
) -> dict[int, bytes | Reject]:
    """WebP file, or why there is none, of each image_id `wanted`, as far as `budget` bytes reach.

    The first are served first, so `in_turn` gives every class some. What is read is what is shown, or nearly.
    """
    threads = 8

    def small(one: tuple[int, bytes | Reject]) -> tuple[int, bytes | Reject]:
        image_id, data = one
        if isinstance(data, Reject):
            return one
        try:
            return image_id, thumbnail(data, longest=longest, max_pixels=max_pixels)
        except Reject as reject:
            return image_id, reject

    def made(ids: NDArray[np.int64]) -> Iterator[tuple[int, bytes | Reject]]:
        with ThreadPoolExecutor(threads) as pool:
            for block in _blocks(images.read(np.sort(ids), threads=threads), _BLOCK):
                yield from pool.map(small, block)

    probed = wanted[:: max(1, len(wanted) // _PROBED)][:_PROBED]
    found = dict(made(probed))
    each = max(1.0, _bytes(found) / max(1, len(found)))
    rest = np.setdiff1d(wanted[: int(budget / each)], probed)
    progress.begin(len(found) + len(rest), done=0, unit="pictures")
    for image_id, data in made(rest):
        found[image_id] = data
        progress.update(len(found))
    return dict(_fitting(wanted, found, budget))


def in_turn(picks: Picks) -> NDArray[np.int64]:
    """image_ids by rank, then kind, then class, each once."""
    order = picks.ids.transpose(2, 0, 1).reshape(-1)
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]


def _fitting(
    wanted: NDArray[np.int64], found: dict[int, bytes | Reject], budget: int
) -> Iterator[tuple[int, bytes | Reject]]:
    """Of what was found the first in turn, as far as the budget reaches."""
    spent = 0
    for image_id in wanted.tolist():
        data = found.get(image_id)
        if data is None:
            continue
        spent += 0 if isinstance(data, Reject) else len(data)
        if spent > budget:
            return
        yield image_id, data


def _bytes(found: dict[int, bytes | Reject]) -> int:
    return sum(len(data) for data in found.values() if isinstance(data, bytes))


def _blocks(items: Iterable[tuple[int, bytes | Reject]], size: int) -> Iterator[list[tuple[int, bytes | Reject]]]:
    iterator = iter(items)
    while block := list(itertools.islice(iterator, size)):
        yield block
