"""One card a class: its figures, the classes that heads take for it, and its pictures."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icce_ray.io.decode import Reject
from icce_ray.report.heads import Classes
from icce_ray.report.picks import KINDS, Labelled, Picks

#: Classes named as the nearest, and the least chance that a head takes two images of both for one class.
NEAREST, LEAST_TOGETHER = 3, 0.01
#: Names longer than this are cut in the middle: an image may be called anything.
LONGEST_NAME = 120


def cards(
    source: Labelled,
    picks: Picks,
    named: dict[int, dict[str, Any]],
    pictures: dict[int, bytes | Reject],
    classes: Classes | None,
    names: dict[int, str],
    truth: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """What the page's script is given of each class, as plain values.

    `named` has uri and key of the images that are to be shown, by image_id; `pictures` their files, as far as there are
    any; `truth` a dict a class, `class` (name of the true class that is most frequent in it) and `share`, or is empty.
    """
    near = _nearest(classes.together) if classes is not None else [[]] * len(source.sizes)
    return [
        {
            "label": label,
            "name": names.get(label, ""),
            "size": size,
            "confidence": _number(picks.mean_share[label]),
            "agreement": _number(classes.agreement[label]) if classes is not None else None,
            "near": near[label],
            "truth": truth[label] if truth else None,
            "tiles": [
                _tiles(picks.ids[kind, label], picks.shares[kind, label], named, pictures) for kind in range(len(KINDS))
            ],
        }
        for label, size in enumerate(source.sizes.tolist())
    ]


def _tiles(
    ids: NDArray[np.int64],
    shares: NDArray[np.float32],
    named: dict[int, dict[str, Any]],
    pictures: dict[int, bytes | Reject],
) -> list[dict[str, Any]]:
    found = []
    for image_id, share in zip(ids.tolist(), shares.tolist(), strict=True):
        if image_id not in named:
            continue
        row, data = named[image_id], pictures.get(image_id)
        tile: dict[str, Any] = {"uri": _cut(row["uri"]), "share": round(share, 4)}
        if row["key"] != row["uri"]:
            tile["key"] = _cut(row["key"])
        if isinstance(data, Reject):
            tile["missing"] = _cut(str(data))
        elif data is not None:
            tile["picture"] = base64.b64encode(data).decode()
        found.append(tile)
    return found


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
