"""Labelled images at hand, as HOG features: scikit-learn's digits, or a Parquet file of image files and labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icce_ray.adapters.backbones import load_backbone
from icce_ray.adapters.decode import decode


def labelled(parquet: Path | None, rows: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features float32 [n, D] and labels int64 [n]: some `rows` of the file, or all 1,797 digits without one."""
    return _digits() if parquet is None else _images(parquet, rows)


def _digits() -> tuple[torch.Tensor, np.ndarray]:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    files = []
    for picture in digits.images:
        sink = io.BytesIO()
        Image.fromarray((picture * 15.9375).astype(np.uint8)).save(sink, "png")
        files.append(sink.getvalue())
    return _hog(files), digits.target


def _images(path: Path, rows: int) -> tuple[torch.Tensor, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["bytes", "label"])
    chosen = np.random.default_rng(0).permutation(len(table))[:rows]
    table = table.take(chosen)
    return _hog(table["bytes"].to_pylist()), table["label"].to_numpy().astype(np.int64)


def _hog(files: list[bytes]) -> torch.Tensor:
    backbone = load_backbone("hog", features="hog")
    pictures = [decode(file, size=32, resize="squash", max_pixels=10**6) for file in files]
    blocks = [backbone.embed(np.stack(pictures[start : start + 500])).main for start in range(0, len(pictures), 500)]
    return torch.from_numpy(np.concatenate(blocks).astype(np.float32))
