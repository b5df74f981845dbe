"""Images with planted trouble among photographs: recall and precision of each kind, and false alarms of clean sets.

    python jobs/bench/quality.py [--images 2000 --planted 40 --seed 0] [--parquet FILE ...] [--cleanvision]

Photographs are crops, 200 to 400 pixels a side, of scikit-image's and scikit-learn's, as JPEG. Planted are pictures
blurred (Gaussian, radius 3 to 5 pixels), dark and bright (6 to 20 % of the range are left), blank (one colour and at
most a level of noise), small (12 to 48 pixels) and narrow (1 to 4 up to 1 to 10). Clean sets are scikit-learn's
digits and Parquet files with the images in a column `bytes`. With `--cleanvision` the library of this name, which must
be installed, judges the same files with its own settings.
"""

from __future__ import annotations

import importlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import skimage.data
from measuring import header, options, row
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

from icce_ray.core.quality import PROBLEMS, flagged, histograms, limits
from icce_ray.io.decode import decode_and_measure
from icce_ray.io.rendering import Resizing

#: Of scikit-image; left out are drawings, binary pictures, what is smaller, and `clock`, which is blurred by motion.
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field"),
    *("immunohistochemistry", "moon", "retina", "rocket"),
)
#: What cleanvision calls them.
THEIRS = {
    "blank": "low_information",
    "dark": "dark",
    "bright": "light",
    "blurred": "blurry",
    "small": "odd_size",
    "narrow": "odd_aspect_ratio",
}
Random = np.random.Generator


def crops(random: Random) -> Callable[[], Image.Image]:
    """What draws a square part of a photograph that is not blank by itself, as a part of a sky is."""
    found = [getattr(skimage.data, name)() for name in PHOTOGRAPHS] + list(load_sample_images().images)
    pictures = [Image.fromarray(one).convert("RGB") for one in found]

    def crop() -> Image.Image:
        whole = pictures[random.integers(len(pictures))]
        side = min(*whole.size, int(random.uniform(200, 401)))
        left, top = (int(random.integers(0, length - side + 1)) for length in whole.size)
        part = whole.crop((left, top, left + side, top + side))
        low, high = np.percentile(np.asarray(part.convert("L")), (1, 99))
        return part if high - low >= 64 else crop()

    return crop


def spoilt(image: Image.Image, problem: str, random: Random) -> Image.Image:
    """The picture with one kind of trouble."""
    values, left = np.asarray(image, np.float32), random.uniform(0.06, 0.2)
    if problem == "blurred":
        return image.filter(ImageFilter.GaussianBlur(random.uniform(3, 5)))
    if problem == "small":
        return image.resize((side := int(random.uniform(12, 49)), side), Image.Resampling.BICUBIC)
    if problem == "narrow":
        height = round(image.height / random.uniform(4, 10))
        return image.crop((0, image.height // 3, image.width, image.height // 3 + height))
    if problem == "blank":
        values = random.uniform(0, 255, 3) + random.normal(0, random.uniform(0, 1), values.shape)
    else:
        values = left * values if problem == "dark" else 255 - left * (255 - values)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def planted(images: int, each: int, random: Random) -> tuple[list[bytes], np.ndarray]:
    """Files, and the problem of each, "" for those without."""
    crop, kinds = crops(random), np.repeat([*PROBLEMS, ""], [each] * len(PROBLEMS) + [images - each * len(PROBLEMS)])
    files = []
    for kind in kinds.tolist():
        sink, image = io.BytesIO(), crop()
        (spoilt(image, kind, random) if kind else image).save(sink, "JPEG", quality=int(random.integers(80, 96)))
        files.append(sink.getvalue())
    return files, kinds


def ours(files: Sequence[bytes], size: int) -> dict[str, np.ndarray]:
    """Which files have each problem, bool[n]."""
    wanted = [(size, Resizing.named("squash", size))]
    found = [decode_and_measure(data, wanted=wanted, max_pixels=10**9)[1] for data in files]
    names = ("width", "height", "brightness", "contrast", "sharpness")
    figures = {name: np.array([getattr(one, name) for one in found]) for name in names}
    return flagged(figures, limits(histograms(figures)))


def cleanvisions(files: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The same by cleanvision, in one process, which reads a folder."""
    library = importlib.import_module("cleanvision")
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            (Path(folder) / f"{number:06d}.jpg").write_bytes(data)  # of a PNG, too: content decides
        lab = library.Imagelab(data_path=folder, verbose=False)
        lab.find_issues({name: {} for name in THEIRS.values()}, n_jobs=1, verbose=False)
        issues = lab.issues.sort_index()
    return {ours: issues[f"is_{theirs}_issue"].to_numpy(bool) for ours, theirs in THEIRS.items()}


def digits() -> list[bytes]:
    """scikit-learn's, 8 x 8, as PNG."""
    files = []
    for grey in load_digits(return_X_y=True)[0].reshape(-1, 8, 8):
        sink = io.BytesIO()
        Image.fromarray((grey * 15.9).astype(np.uint8)).save(sink, "PNG")
        files.append(sink.getvalue())
    return files


def main() -> None:
    """Print the tables."""
    args = options(__doc__, images=2000, planted=40, seed=0, parquet=[""], cleanvision=False).parse_args()
    files, kinds = planted(args.images, args.planted, np.random.default_rng(args.seed))
    paths = [Path(path) for path in args.parquet if path]
    sets = {"digits": digits()} | {path.stem: pq.read_table(path)["bytes"].to_pylist() for path in paths}
    judges = {f"for a backbone of {size} pixels": partial(ours, size=size) for size in (32, 224)}
    for judge, judged in (judges | ({"cleanvision": cleanvisions} if args.cleanvision else {})).items():
        begun = time.process_time()
        found = judged(files)
        print(f"\n{judge}: {1e3 * (time.process_time() - begun) / len(files):.2f} ms of processor time an image\n")
        header("problem", "planted", "flagged", "recall", "precision", "false alarms", "of these with other trouble")
        for name, which in found.items():
            right, wrong = which & (kinds == name), which & (kinds != name)
            recall, precision = right.sum() / args.planted, right.sum() / max(1, which.sum())
            other = (wrong & (kinds != "")).sum()
            row(name, args.planted, which.sum(), f"{recall:.3f}", f"{precision:.3f}", wrong.sum(), other)
        print()
        header("clean set", "images", *found)
        for name, clean in sets.items():
            row(name, f"{len(clean):,}", *(which.sum() for which in judged(clean).values()))


if __name__ == "__main__":
    main()
