"""The stages that `growth.py` measures: what each finds on disk, and the work it then does.

`prepare(root, n)` writes the inputs of n images; `work(root)` is the stage's own work on them, in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from consensus_shards import write_run

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.core.neighbors import Limits, Neighbors
from icce_ray.core.recipe import Recipe
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer
from icce_ray.io.decode import decode
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.settings.choosing import with_papers
from icce_ray.stages import consensus, listing
from icce_ray.stages.classifier import Labeller, fit_grid
from icce_ray.stages.cluster import Resources
from icce_ray.stages.connection import connected
from icce_ray.stages.features import FeatureRows, list_column, matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import CLASSIFIER_DESCRIPTION, CLASSIFIER_WEIGHTS, FEATURES, MANIFEST, PREDICTIONS

DIM, CLUSTERS, HEADS, CLASS, ROWS = 384, 100, 10, 100, 4096
PICTURES, SIDE = 64, 64


@dataclass(frozen=True)
class Stage:
    """One stage; `scale` is of its sizes against --images, `workers` says that Ray's processes do the work."""

    prepare: Callable[[Path, int], None]
    work: Callable[[Path], object]
    scale: float = 1.0
    repeatable: bool = True
    workers: bool = False
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


# -- list, embed -------------------------------------------------------------------------------------------------------


def _pictures(root: Path, count: int) -> None:
    """A folder of `count` JPEG files, links to a few."""
    from PIL import Image

    rng, originals = np.random.default_rng(0), root / "originals"
    originals.mkdir()
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(originals / f"{number}.jpg")
    for index in range(count):
        folder = root / "images" / f"{index // 1000:05d}"
        if index % 1000 == 0:
            folder.mkdir(parents=True)
        os.link(originals / f"{index % PICTURES}.jpg", folder / f"{index:08d}.jpg")


def _list(root: Path) -> None:
    found = find_source(SourceSpec(str(root / "images")))
    store = Store(str(root / "run"))
    files, summary = listing.run(found, store, Progress(), rows_per_shard=ROWS)
    store.commit("list", files, fingerprint="synthetic", summary=summary, seconds=0.0)


def _listed(root: Path, count: int) -> None:
    _pictures(root, count)
    _list(root)


def _embed(root: Path) -> None:
    """What a task and an actor of the stage do with each chunk: read, decode, HOG, write."""
    store, backbone = Store(str(root / "run")), load_backbone(describe_backbone("hog", "hog"))
    source = find_source(SourceSpec(str(root / "images")))
    for chunk in sorted(store.parts(MANIFEST)):
        rows = store.storage.read_table(MANIFEST.part(chunk))
        read = source.read_span(rows, 2**20)
        pictures = [
            decode(_bytes(one), size=backbone.info.image_size, resize="squash", max_pixels=2**20) for one in read
        ]
        blocks = [backbone.embed(np.stack(pictures[i : i + 64])).main for i in range(0, len(pictures), 64)]
        table = rows.select(["image_id", "uri", "key"]).append_column("features", list_column(np.concatenate(blocks)))
        store.storage.write_table(FEATURES.part(chunk), table)


def _bytes(read: object) -> bytes:
    if isinstance(read, Exception):
        raise read
    assert isinstance(read, bytes)
    return read


# -- neighbours, heads, classifier, predict --------------------------------------------------------------------------


def _features(root: Path, count: int) -> None:
    """Shards of features in classes of `CLASS` images, at a cosine of 2/3 within a class, and a class of each image."""
    store, rng, files, first = Store(str(root)), np.random.default_rng(0), [], 0
    centres = rng.standard_normal((-(-count // CLASS), DIM), dtype=np.float32)
    for chunk, first in enumerate(range(0, count, ROWS)):
        ids = np.arange(first, min(first + ROWS, count))
        noise = rng.standard_normal((len(ids), DIM), dtype=np.float32)
        features = (centres[ids % len(centres)] + 0.7 * noise).astype(np.float16)
        names = pa.array([f"{index:08d}.jpg" for index in ids])
        columns = {"image_id": ids, "uri": names, "key": names, "features": list_column(features)}
        files.append(store.storage.write_table(FEATURES.part(chunk), pa.table(columns)))
    store.commit("embed", files, fingerprint="synthetic", summary={}, seconds=0.0)


def _rows(root: Path) -> torch.Tensor:
    return torch.from_numpy(FeatureRows.of(Store(str(root))).features())


def _neighbors(root: Path) -> None:
    mine(_rows(root), Limits(0.5, 20, CLASS))


def _with_lists(root: Path, count: int) -> None:
    _features(root, count)
    np.save(root / "ids.npy", np.random.default_rng(1).integers(count, size=50 * count, dtype=np.int32))


def _heads(root: Path) -> None:
    """One epoch."""
    ids = torch.from_numpy(np.load(root / "ids.npy"))
    lists = Neighbors(torch.arange(0, len(ids) + 1, 50), ids, torch.empty(0))
    recipe = Recipe(heads=HEADS, hidden=256, bottleneck=128, batch_size=256)
    HeadTrainer(_rows(root), lists, n_clusters=CLUSTERS, recipe=recipe, seed=0).run_epoch()


def _grid(root: Path) -> None:
    """100 iterations of the 12,500, so that what grows with the images is to be seen."""
    features = _rows(root)
    labels = np.arange(len(features)) % CLUSTERS
    values = {"source": "-", "out": str(root), "clusters": CLUSTERS, "classifier": {"iterations": 100}}
    agreement = np.ones(len(features), np.float32)
    fit_grid(features, labels, agreement, {"cls": [(0, DIM)]}, with_papers(load(values)))


def _classified(root: Path, count: int) -> None:
    _features(root, count)
    store = Store(str(root))
    weights = {"weight": torch.randn(CLUSTERS, DIM), "bias": torch.zeros(CLUSTERS)}
    description = {"columns": [[0, DIM]], "classes": CLUSTERS}
    store.storage.write_bytes(CLASSIFIER_DESCRIPTION.path, json.dumps(description).encode())
    files = [store.storage.write_tensors(CLASSIFIER_WEIGHTS.path, weights)]
    files.append(store.storage.describe(CLASSIFIER_DESCRIPTION.path))
    store.commit("classifier", files, fingerprint="-", summary={}, seconds=0.0)


def _predict(root: Path) -> None:
    """What tasks of the stage do: label the stored features, shard by shard."""
    store, labeller = Store(str(root)), Labeller(str(root), device="cpu")
    for shard, info in enumerate(FEATURES.files(store.require("embed").files)):
        table = store.storage.read_table(info.path)
        part = labeller(matrix(table["features"]), None).beside(table.select(["image_id", "uri", "key"]))
        store.storage.write_table(PREDICTIONS.part(shard), part)


# -- consensus ---------------------------------------------------------------------------------------------------------


def _labelled(root: Path, count: int) -> None:
    write_run(str(root), count, CLUSTERS, HEADS)


def _consensus(root: Path) -> None:
    values = {"source": str(root), "out": str(root), "clusters": CLUSTERS, "heads": {"heads": HEADS}}
    settings = load(values | {"consensus": {"methods": ["mcla"]}})
    consensus.run(settings, Store(str(root)), Resources("cpu", 0, 1, os.cpu_count() or 1), Progress())


STAGES = {
    "list": Stage(_pictures, _list, scale=4.0),
    "embed": Stage(_listed, _embed),
    "neighbors": Stage(_features, _neighbors),
    "heads": Stage(_with_lists, _heads),
    "consensus": Stage(_labelled, _consensus, scale=16.0, repeatable=False, workers=True, around=connected),
    "classifier": Stage(_features, _grid),
    "predict": Stage(_classified, _predict),
}


def prepare(name: str, root: Path, count: int) -> None:
    """Write the inputs of a stage."""
    root.mkdir(exist_ok=True)
    STAGES[name].prepare(root, count)
