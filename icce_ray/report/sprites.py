"""Tiny pictures for the map of a page: some hundreds on a sheet, so that thousands take little room."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.io.sources import SourceError
from icce_ray.progress import Progress
from icce_ray.report.pool import thumbnails
from icce_ray.store import Store

#: Side of a picture in pixels, pictures along a side of a sheet, bytes of all sheets before base64.
SIDE, ACROSS, BUDGET = 40, 16, 1_000_000
A_SHEET = ACROSS**2
#: Quality of WebP, of 100; bytes of a picture in a file of its own for one on a sheet.
_QUALITY, _ALONE = 50, 1.5


def sprites(
    store: Store, ids: NDArray[np.int64], order: NDArray[np.int64], progress: Progress, *, budget: int = BUDGET
) -> dict[str, Any] | None:
    """Sheets of pictures of the images `ids`, those first in `order` (rows of `ids`) as far as `budget` bytes reach.

    `points` names the row of each picture, along the lines of a sheet and sheet after sheet; `sheets` are WebP files in
    base64. None where the images have no pictures or cannot be read any more.
    """
    try:
        images = RunImages(store)
    except SourceError:
        return None  # the cards of the page say why
    if not images.has_pixels:
        return None
    # A picture takes more bytes in a file of its own than on a sheet.
    files = thumbnails(images, ids[order], SIDE, progress, budget=int(_ALONE * budget))
    found = [(row, file) for row in order.tolist() if isinstance(file := files.get(int(ids[row])), bytes)]
    sheets, points = [], []
    for first in range(0, len(found), A_SHEET):
        own = found[first : first + A_SHEET]
        sheet = _sheet([file for _, file in own])
        budget -= len(sheet)
        if budget < 0:
            break
        sheets.append(base64.b64encode(sheet).decode())
        points += [row for row, _ in own]
    return {"side": SIDE, "across": ACROSS, "points": points, "sheets": sheets} if sheets else None


def _sheet(files: list[bytes]) -> bytes:
    """WebP of small pictures, each whole in the middle of its square and as large as that."""
    lines = -(-len(files) // ACROSS)
    sheet = Image.new("RGBA", (ACROSS * SIDE, lines * SIDE))
    for slot, data in enumerate(files):
        with Image.open(io.BytesIO(data)) as image:
            times = SIDE / max(image.size)
            kind = Image.Resampling.NEAREST if times >= 2 else Image.Resampling.BICUBIC  # pixels of tiny ones are seen
            picture = image.resize([max(1, round(times * side)) for side in image.size], kind)
        left, top = (slot % ACROSS) * SIDE, (slot // ACROSS) * SIDE
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    sink = io.BytesIO()
    opaque = sheet.getchannel("A").histogram()[255] == sheet.width * sheet.height
    (sheet.convert("RGB") if opaque else sheet).save(sink, "WEBP", quality=_QUALITY, method=4)
    return sink.getvalue()


def spread(grid: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Rows of places [n, 2], those first that show most of the map: one in each square that has any, then one in each
    smaller square, of halved sides, that has none yet. Of a square the first row."""
    chosen = np.zeros(len(grid), bool)
    parts = []
    for bits in range(13, 5, -1):  # squares of 8 x 8 to 1024 x 1024
        cells = (grid[:, 0].astype(np.int64) >> bits) << 16 | (grid[:, 1] >> bits)
        fresh = np.setdiff1d(cells, cells[chosen])
        found, first = np.unique(cells, return_index=True)
        rows = np.sort(first[np.isin(found, fresh)])
        chosen[rows] = True
        parts.append(rows)
    return np.concatenate([*parts, np.flatnonzero(~chosen)])
