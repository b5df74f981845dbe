"""Planted copies of real images, and planted strangers: how many are found as duplicates and as outliers.

Into a set of images go copies of some of them, as many of each kind: the same bytes, re-encoded (JPEG 60), resized to
70 %, cropped by 5 % (at a random place). Features are HOG as `icce run` makes them, neighbours the nearest 20 as they
are and in 128 principal components, as the stage `neighbors` sees them. By default scikit-learn's digits; --images
takes Parquet files with a column `bytes`, as `icce run` does. --strangers are the images of one file that go into
another's as outliers, with noise, text and gratings. --sheet draws the closest pairs that nobody planted, to look at.

    python jobs/bench/duplicates.py
    python jobs/bench/duplicates.py --images mnist_train20k.parquet --rows 20000 --sheet pairs.png
    python jobs/bench/duplicates.py --images mnist_test5k.parquet --rows 5000 --strangers cifar10_10k.parquet
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.core.duplicates import (
    CANDIDATE,
    RANK,
    floored,
    grouped,
    limit_of,
    relative,
    scales,
    witnessed,
)
from icce_ray.core.outliers import LIMIT, REFERENCES, Distances, distances
from icce_ray.core.picture_hash import differing
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.decode import decode
from icce_ray.io.quality import measured
from jobs.bench.measuring import header, options, row

#: Kinds of copies, and of strangers beside the images of another file.
KINDS = ("exact", "re-encoded", "resized", "cropped")
MADE = ("noise", "text", "gratings")
COMPONENTS = 128


def copied(data: bytes, kind: str, random: np.random.Generator) -> bytes:
    """The file of an image as another one."""
    if kind == "exact":
        return data
    image = Image.open(io.BytesIO(data))
    form, sink = image.format, io.BytesIO()
    if kind == "re-encoded":
        image.convert("RGB").save(sink, "JPEG", quality=60)
        return sink.getvalue()
    if kind == "resized":
        image = image.resize([max(1, round(0.7 * side)) for side in image.size], Image.Resampling.BICUBIC)
    else:
        width, height = image.size
        less, lower = max(1, round(0.05 * width)), max(1, round(0.05 * height))
        left, top = (int(random.integers(0, one + 1)) for one in (less, lower))
        image = image.crop((left, top, left + width - less, top + height - lower))
    image.save(sink, form, **({"quality": 90} if form == "JPEG" else {}))
    return sink.getvalue()


def stranger(kind: str, random: np.random.Generator) -> bytes:
    """The file of an image that is made up."""
    if kind == "noise":
        image = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    elif kind == "text":
        image = Image.new("RGB", (120, 120), "white")
        for line in range(10):
            letters = "".join(chr(code) for code in random.integers(97, 123, 18))
            ImageDraw.Draw(image).text((3, 3 + 11 * line), letters, fill="black")
    else:
        waves, (rows, columns) = random.uniform(0.2, 2.0, 2), np.mgrid[:64, :64]
        grey = 127.0 + 127.0 * np.sin(waves[0] * columns + waves[1] * rows)
        image = Image.fromarray((grey[..., None] * random.uniform(0.3, 1.0, 3)).astype(np.uint8))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def files(paths: Sequence[str], rows: int) -> list[bytes]:
    """As many images of each file as there are, and of scikit-learn's digits without any."""
    if paths:
        tables = (pq.read_table(path, columns=["bytes"])["bytes"][:rows] for path in paths)
        return [data for table in tables for data in table.to_pylist()]
    from sklearn.datasets import load_digits

    found = []
    digits: Any = load_digits()
    for grey in digits.images[:rows]:
        sink = io.BytesIO()
        Image.fromarray((grey * 15.9).astype(np.uint8)).save(sink, "PNG")
        found.append(sink.getvalue())
    return found


def features_of(data: Sequence[bytes]) -> NDArray[np.float32]:
    """HOG with colours, [n, D]."""
    info = describe_backbone("hog", None, n_last_blocks=1, image_size=None, resize=None)
    model = load_backbone(info, device="cpu", dtype="float32")
    squares = (decode(one, size=info.image_size, resize="squash", max_pixels=10**9) for one in data)
    blocks = iter(lambda: [one for _, one in zip(range(512), squares, strict=False)], [])
    return np.concatenate([model.embed(np.stack(block)).main for block in blocks])


def hashes_of(data: Sequence[bytes]) -> NDArray[np.uint8]:
    """uint8[n, bytes]."""
    pictures = (Image.open(io.BytesIO(one)).convert("RGB") for one in data)
    found = [measured(one, one.size, b"").picture_hash for one in pictures]
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(found), -1)


def projected(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """As neighbours and heads see them."""
    rows = torch.from_numpy(features)
    return Projection.of(Moments.of(rows), COMPONENTS).apply(rows).numpy()


def nearest(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and rows of the RANK nearest: [n, RANK] each, descending."""
    unit = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
    found = []
    for start in range(0, len(unit), 2048):
        cosines = unit[start : start + 2048] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2.0
        found.append(cosines.topk(RANK, dim=1))
    return tuple(torch.cat(one).numpy() for one in zip(*found, strict=True))  # type: ignore[return-value]


def near_pairs(features: NDArray[np.float32], hashes: NDArray[np.uint8] | None) -> tuple[Any, Any, float]:
    """Pairs int[m, 2], their relative distances, and the limit found."""
    cosine, neighbor = nearest(features)
    scale = floored(scales(np.arange(0, cosine.size + 1, RANK), cosine.ravel()))
    own = np.repeat(np.arange(len(cosine)), RANK)
    pairs = np.stack([own, neighbor.ravel()], axis=1)
    distance = relative(cosine.ravel(), scale[pairs[:, 0]], scale[pairs[:, 1]])
    limit = limit_of(distance.reshape(-1, RANK)[:, 0])
    kept = distance < CANDIDATE
    pairs, distance = pairs[kept], distance[kept]
    if hashes is not None:
        distance = witnessed(distance, differing(hashes[pairs[:, 0]], hashes[pairs[:, 1]]))
    return pairs, distance, limit


def score_copies(data: list[bytes], asked: Any, random: np.random.Generator) -> None:
    """Print a row a rule: recall of each kind, precision, the largest group that is not planted."""
    chosen = random.permutation(len(data))[: asked.copies]
    kinds = np.resize(np.array(KINDS), len(chosen))
    every = data + [copied(data[one], kind, random) for one, kind in zip(chosen.tolist(), kinds, strict=True)]
    origin, images = np.concatenate([np.arange(len(data)), chosen]), len(every)
    features, hashes = features_of(every), hashes_of(every)
    rules: dict[str, Callable[[], Any]] = {
        "features": lambda: near_pairs(features, None),
        "features and hash": lambda: near_pairs(features, hashes),
        "128 components": lambda: near_pairs(projected(features), None),
        "128 components and hash": lambda: near_pairs(projected(features), hashes),
    }
    header("pairs by", "limit", *KINDS, "flagged", "not planted", "precision", "largest group")
    for name, rule in rules.items():
        pairs, distance, limit = rule()
        group = grouped(pairs, distance, images, limit)
        sizes = np.bincount(group, minlength=images)
        with_original = group[len(data) :] == group[chosen]
        recall = [f"{with_original[kinds == kind].mean():.3f}" for kind in KINDS]
        flagged = sizes[group] > 1
        planted = np.zeros(images, bool)
        planted[chosen] = planted[len(data) :] = True
        wrong = int((flagged & ~planted).sum())
        precision = 1.0 - wrong / max(1, int(flagged.sum()))
        row(name, f"{limit:.3f}", *recall, int(flagged.sum()), wrong, f"{precision:.3f}", int(sizes.max()))
    if asked.sheet:
        pairs, distance, _ = rules["128 components and hash"]()
        others = np.flatnonzero((origin[pairs[:, 0]] != origin[pairs[:, 1]]) & (pairs[:, 0] < pairs[:, 1]))
        draw(asked.sheet, every, pairs[others[np.argsort(distance[others])[:120]]])


def draw(path: str, data: list[bytes], pairs: NDArray[np.int64]) -> None:
    """Pairs side by side, the closest first, twelve a row."""
    sheet = Image.new("RGB", (12 * 140, 10 * 70), "white")
    for place, pair in enumerate(pairs.tolist()):
        for side, image in enumerate(pair):
            picture = Image.open(io.BytesIO(data[image])).convert("RGB").resize((64, 64))
            sheet.paste(picture, (place % 12 * 140 + side * 66, place // 12 * 70))
    sheet.save(path)


def score_strangers(data: list[bytes], asked: Any, random: np.random.Generator) -> None:
    """Print a row: recall of each kind of strangers, precision."""
    others = files([asked.strangers], asked.rows)
    share = -(-asked.planted // (len(MADE) + 1))
    drawn = [others[one] for one in random.choice(len(others), share, replace=False).tolist()]
    every = data + drawn + [stranger(kind, random) for kind in MADE for _ in range(share)]
    kinds = np.repeat(["other file", *MADE], share)
    features = torch.from_numpy(features_of(every))
    chosen = uniform_rows(len(every), min(REFERENCES, len(every)), 0)
    own = np.isin(np.arange(len(every)), chosen)
    distance = distances(features, features[chosen], own)
    found = Distances.of(distance[chosen]).scores(distance) > LIMIT
    right, wrong = int(found[len(data) :].sum()), int(found[: len(data)].sum())
    header("other file", *MADE, "all", "flagged", "not planted", "precision")
    recall = [f"{found[len(data) :][kinds == kind].mean():.2f}" for kind in dict.fromkeys(kinds.tolist())]
    all_found = f"{found[len(data) :].mean():.2f}"
    row(*recall, all_found, right + wrong, wrong, f"{right / max(1, right + wrong):.3f}")


def main() -> None:
    """Print one table."""
    parser = options(__doc__, rows=20_000, copies=500, planted=50, seed=0, strangers="", sheet="")
    parser.add_argument("--images", nargs="*", default=[])
    asked = parser.parse_args()
    data, random = files(asked.images, asked.rows), np.random.default_rng(asked.seed)
    print(f"{len(data):,} images\n")
    (score_strangers if asked.strangers else score_copies)(data, asked, random)


if __name__ == "__main__":
    main()
