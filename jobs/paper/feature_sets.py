"""Frozen features with classes to judge by: synthetic, real images as HOG features, or whatever a user brings."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.automatic import automatic
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.recipe import Recipe
from jobs.paper.synthetic import FeatureModel, draw, scaled_k_min
from jobs.paper.variants import Variant

#: Narrower heads and fewer steps than the paper's, so that a study ends on two cores.
SMALL: dict[str, Any] = {"hidden": 256, "bottleneck": 128, "warmup_epochs": 3, "teacher_momentum": 0.99}
TINY: dict[str, Any] = SMALL | {"hidden": 128, "bottleneck": 64}


@dataclass(frozen=True)
class FeatureSet:
    """Rows that methods are fitted on, rows they have not seen, and the classes of both, which only judge."""

    name: str
    features: Tensor
    """float32[n, D]."""
    classes: NDArray[np.int64]
    """int64[n] in [0, n_clusters)."""
    unseen: Tensor
    unseen_classes: NDArray[np.int64]
    n_clusters: int
    base: Variant
    """ICCE with all its parts, in the size that suits this set."""
    widths: tuple[int, ...] = ()
    """Columns of each space where the features are of several, side by side."""


def synthetic(n_images: int, *, model: FeatureModel | None = None, heads: int = 8, seed: int = 0) -> FeatureSet:
    """Images of `jobs.paper.synthetic` and a quarter as many unseen ones."""
    model = model or FeatureModel()
    seen, unseen = draw(model, n_images, seed, unseen=n_images // 4)
    recipe = Recipe(heads=heads, epochs=30, batch_size=256, learning_rate=2e-3, **SMALL)
    k_min = scaled_k_min(n_images, model.n_clusters)
    tail = f", largest class {model.imbalance:g} times the smallest" if model.imbalance != 1.0 else ""
    return FeatureSet(
        f"synthetic, {n_images:,} x {model.dim}, K = {model.n_clusters}{tail}",
        seen.features,
        seen.classes.numpy(),
        unseen.features,
        unseen.classes.numpy(),
        model.n_clusters,
        Variant(threshold=0.3, k_min=k_min, recipe=recipe),
    )


def digits() -> FeatureSet:
    """scikit-learn's 1,797 digits, as HOG features; a random fifth is unseen."""
    recipe = Recipe(heads=16, epochs=60, batch_size=256, learning_rate=3e-3, **TINY)
    return split("digits, HOG", *digit_features(), Variant(threshold=0.65, k_min=20, recipe=recipe))


def images(path: Path, rows: int | None = None) -> FeatureSet:
    """Some rows of a Parquet file, as HOG features; a random fifth is unseen."""
    recipe = Recipe(heads=16, epochs=100, batch_size=128, learning_rate=3e-3, **TINY)
    return split(f"{path.stem}, HOG", *image_features(path, rows), Variant(threshold=0.65, k_min=20, recipe=recipe))


def brought(features: Path, labels: Path, base: Variant) -> FeatureSet:
    """A feature matrix [n, D] and its classes [n], both .npy; a fifth is unseen.

    Raises ValueError if they do not match.
    """
    matrix, found = np.load(features, allow_pickle=False), np.load(labels, allow_pickle=False)
    if matrix.ndim != 2 or found.shape != matrix.shape[:1]:
        raise ValueError(f"features {matrix.shape} with labels {found.shape}; give [n, D] and [n]")
    return split(features.stem, torch.from_numpy(matrix.astype(np.float32)), found, base)


def automatic_base(on: FeatureSet) -> FeatureSet:
    """The set as ICCE sees it with nothing set: its rows projected, the recipe of `core.automatic` as the base."""
    moments, dim = Moments.of(on.features), on.features.shape[1]
    choice = automatic(len(on.features), dim, on.n_clusters, mean_cosine=moments.mean_cosine)
    projection = Projection.of(moments, choice.components or dim)
    chosen, known = dataclasses.asdict(choice), {field.name for field in dataclasses.fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in chosen.items() if name in known})
    base = Variant(threshold=choice.threshold, k_min=choice.k_min, recipe=recipe, iterations=choice.iterations)
    rows = {"features": projection.apply(on.features).float(), "unseen": projection.apply(on.unseen).float()}
    return dataclasses.replace(on, name=f"{on.name}, nothing set", base=base, **rows)


def digit_features() -> tuple[Tensor, NDArray[np.int64]]:
    """HOG features and classes of all of scikit-learn's digits, float32[1797, D] and int64[1797]."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    files = []
    for picture in found.images:  # grey values run from 0 to 16
        sink = io.BytesIO()
        Image.fromarray((picture * 15.9375).astype(np.uint8)).save(sink, "png")
        files.append(sink.getvalue())
    return hog(files), found.target


def image_features(path: Path, rows: int | None = None) -> tuple[Tensor, NDArray[np.int64]]:
    """HOG features and classes of some random rows of a Parquet file with columns `bytes` (image files) and `label`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["bytes", "label"])
    table = table.take(np.random.default_rng(0).permutation(len(table))[:rows])
    return hog(table["bytes"].to_pylist()), table["label"].to_numpy().astype(np.int64)


def hog(files: list[bytes], features: str = "hog") -> Tensor:
    """HOG features of image files at 32 x 32 pixels, or "hog+color" those and mean colours, float32[n, D]."""
    from icce_ray.backbones import describe_backbone, load_backbone
    from icce_ray.io.decode import decode

    backbone = load_backbone(describe_backbone("hog", features))
    pictures = [decode(file, size=32, resize="squash", max_pixels=10**6) for file in files]
    blocks = [backbone.embed(np.stack(pictures[start : start + 500])).main for start in range(0, len(pictures), 500)]
    return torch.from_numpy(np.concatenate(blocks).astype(np.float32))


def split(
    name: str, features: Tensor, classes: NDArray[Any], base: Variant, widths: tuple[int, ...] = ()
) -> FeatureSet:
    """A random fifth unseen; classes numbered from 0."""
    names, classes = np.unique(classes, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(features))
    new, seen = order[: len(order) // 5], np.sort(order[len(order) // 5 :])
    name = f"{name}, {len(seen):,} x {features.shape[1]}, K = {len(names)}"
    return FeatureSet(name, features[seen], classes[seen], features[new], classes[new], len(names), base, widths)
