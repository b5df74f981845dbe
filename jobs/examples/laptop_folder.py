"""A folder of images on a laptop: cluster it, label images that came later, read the labels.

    python jobs/examples/laptop_folder.py [FOLDER]

makes FOLDER (laptop-example) with 600 real handwritten digits as PNG files, so that it can be tried as it is.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

import icce_ray

#: HOG instead of DINOv2 needs no download.
HOG = {"embed": {"backbone": "hog", "features": "hog"}}


def write_images(folder: Path, first: int, last: int) -> None:
    """The place of your own images."""
    digits: Any = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(digits.images[first:last], start=first):
        Image.fromarray((image * 15.9375).astype(np.uint8)).save(folder / f"{index:04d}.png")


def main(place: str = "laptop-example") -> None:
    """Cluster 500 images, label 100 more."""
    folder = Path(place)
    write_images(folder / "photos", 0, 500)
    write_images(folder / "new-photos", 500, 600)

    values = {"source": str(folder / "photos"), "clusters": 10, "out": str(folder / "run")}
    icce_ray.run(icce_ray.load_settings(values | HOG))
    icce_ray.predict(str(folder / "run"), str(folder / "new-photos"), str(folder / "run-new"))

    for name in ("run", "run-new"):
        table = pq.read_table(folder / name / "predictions", columns=["uri", "label", "confidence"])
        sizes = np.bincount(table["label"], minlength=10)
        print(f"{name}: {len(table)} images, images in each class: {sizes.tolist()}")
        print(f"the first: {table.slice(0, 1).to_pylist()[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
