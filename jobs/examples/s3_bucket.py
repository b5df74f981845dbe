"""Images in a bucket, and the run in a bucket too.

    python jobs/examples/s3_bucket.py s3://bucket/example
    S3_ENDPOINT=minio:9000 python jobs/examples/s3_bucket.py s3://bucket/example

writes 300 real handwritten digits to s3://bucket/example/images, as the place of your own. S3_ENDPOINT is the host and
port of a store that is not AWS; keys come from where AWS's own tools take them (AWS_ACCESS_KEY_ID, a profile, a role).
"""

import io
import os
import sys
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import s3fs
from PIL import Image
from sklearn.datasets import load_digits

import icce_ray

HOG = {"embed": {"backbone": "hog", "features": "hog"}}


def write_images(store: s3fs.S3FileSystem, place: str) -> None:
    """The place of your own images."""
    digits: Any = load_digits()
    for index, image in enumerate(digits.images[:300]):
        png = io.BytesIO()
        Image.fromarray((image * 15.9375).astype(np.uint8)).save(png, "PNG")
        store.pipe_file(f"{place}/{index:04d}.png", png.getvalue())


def main(place: str) -> None:
    """Everything by URI: what every node of a cluster reaches."""
    endpoint = os.environ.get("S3_ENDPOINT")
    options = f"?endpoint_override={endpoint}&scheme=http" if endpoint else ""
    images, run = f"{place}/images{options}", f"{place}/run{options}"
    store = s3fs.S3FileSystem(endpoint_url=f"http://{endpoint}" if endpoint else None)
    write_images(store, f"{place}/images")

    icce_ray.run(icce_ray.load_settings({"source": images, "clusters": 10, "out": run} | HOG))

    table = pq.read_table(
        f"{place}/run/predictions".removeprefix("s3://"), filesystem=store, columns=["uri", "label", "confidence"]
    )
    sizes = np.bincount(table["label"], minlength=10)
    print(f"{len(table)} images, images in each class: {sizes.tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
