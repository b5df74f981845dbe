"""Speeds of one CPU core that no GPU changes, and the fixed cost of each stage, by the project's own code.

Used by `rates.py`, which says how.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from consensus import Ensemble
from PIL import Image
from rates_device import least
from scipy import sparse

from icce_ray import pipeline
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.core.consensus import consensus
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.decode import decode
from icce_ray.io.storage import Storage
from icce_ray.search.partition import PARTITIONERS, metis_graph
from icce_ray.settings import load
from icce_ray.stages.features import list_column
from icce_ray.stages.neighbors import row_numbers
from icce_ray.store import Store
from icce_ray.store.artifacts import MANIFEST

DIM = 2048


def photograph(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """Smooth shapes under grain, so that its JPEG has about the size that a photograph's has."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.normal(0, 12, (height, width, 1))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def pictures() -> dict[str, float]:
    """Images per second and core: decoding at 224 pixels, HOG."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index in range(16):
            path = Path(folder) / f"{index}.jpg"
            photograph(index).save(path, quality=90)
            files.append(path.read_bytes())
    kinds = {"size": 224, "resize": "squash", "max_pixels": 10**8}
    decoding = least(lambda: [decode(data, **kinds) for data in files])
    hog = load_backbone(describe_backbone("hog", "hog+color"))
    pixels = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    return {"decode": len(files) / decoding, "hog": len(pixels) / least(lambda: hog.embed(pixels))}


def tables(folder: str) -> dict[str, float]:
    """Bytes per second and core of feature shards, and bytes of a row's names, for keys of 22 characters."""
    storage, rows = Storage(folder), 1024
    keys = [f"{index // 1000:05d}/{index:012d}.jpg" for index in range(rows)]
    names = pa.table({"image_id": range(rows), "uri": keys, "key": keys})
    values = np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float16)
    whole = names.append_column("features", list_column(values))
    lists = {"image_id": range(rows), "uri": keys, "key": keys, "size": [100_000 + 7 * (i % 999) for i in range(rows)]}
    empty = {"container": [None] * rows, "position": [None] * rows}
    manifest = pa.table(lists | empty, schema=MANIFEST.schema())
    found = {
        "id_bytes": storage.write_table("names.parquet", names).bytes / rows,
        "manifest_bytes": storage.write_table("manifest.parquet", manifest).bytes / rows,
    }
    size = storage.write_table("whole.parquet", whole).bytes
    found["parquet_write"] = size / least(lambda: storage.write_table("whole.parquet", whole))
    found["parquet_read"] = size / least(lambda: storage.read_table("whole.parquet"))
    return found


def training_files() -> dict[str, float]:
    """What loading and keeping a training takes: pairs per second of neighbour ids to rows, bytes of checkpoints."""
    image_ids, rng = np.flatnonzero(np.arange(2_000_000) % 3), np.random.default_rng(0)
    wanted = image_ids[rng.integers(0, len(image_ids), 2**22)]
    row_of = row_numbers(image_ids)
    pairs = len(wanted) / least(lambda: row_of(wanted))
    state = {str(index): torch.zeros(2**22) for index in range(16)}
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        size = storage.write_tensors("state.safetensors", state).bytes
        return {"row_numbers": pairs, "checkpoint": size / least(lambda: storage.write_tensors("state", state))}


def draw() -> dict[str, float]:
    """Images per second among which the sample is drawn."""
    rows = 20_000_000
    return {"draw": rows / least(lambda: uniform_rows(rows, 100_000, 0), passes=1)}


def ensembles() -> dict[str, float]:
    """What the methods of the consensus do per second and core, on noisy heads (20 % flipped)."""
    small = Ensemble(3000, 10, 20, 0.2)
    labels = small.n * small.n_heads
    work = {"cspa": 2 * small.n**2, "hgpa": labels * small.k, "hbgf": 2 * labels}
    made = small.make()[0]
    found = {name: amount / _seconds(made, small.k, name) for name, amount in work.items()}
    large = Ensemble(20_000, 20, 50, 0.2)  # few clusters: the graph is cut in no time
    made = large.make()[0]
    candidate = _seconds(made, large.k, "mcla")
    found["mcla"] = large.n * large.n_heads**2 / candidate
    votes = consensus(made, large.k, PARTITIONERS, methods=("mcla",)).votes + 1  # the last one is not kept
    voting = max(_seconds(made, large.k, "mcla", max_votes=20) - candidate, 1e-2)
    return found | {"votes": votes * large.n * large.n_heads / voting, "cut": _cut()}


def _seconds(labels: Any, clusters: int, method: str, max_votes: int = 0) -> float:
    """One method, and so many votes at most."""
    return least(lambda: consensus(labels, clusters, PARTITIONERS, methods=(method,), max_votes=max_votes), passes=1)


def _cut() -> float:
    """Entries per second of a graph that METIS cuts into 200 parts: 10,000 clusters, each like 400 others."""
    count, rng = 10_000, np.random.default_rng(0)
    one_way = sparse.random_array((count, count), density=0.02, rng=rng, format="csr")
    graph = sparse.csr_matrix(one_way + one_way.T)
    graph.setdiag(0)
    graph.eliminate_zeros()
    weights = np.ones(count, dtype=np.int64)
    return graph.nnz / least(lambda: metis_graph(graph, weights, 200, 0, imbalance=0.05), passes=1)


def stages(folder: str) -> dict[str, float]:
    """Seconds of each stage of a run over 64 tiny images: what its size does not change."""
    images = Path(folder) / "images"
    images.mkdir()
    for index in range(64):
        photograph(index, 50, 50).save(images / f"{index:03d}.jpg")
    values = {
        "source": str(images),
        "out": str(Path(folder) / "run"),
        "clusters": 4,
        "embed": {"backbone": "hog"},
        "heads": {"heads": 2, "hidden": 16, "bottleneck": 8, "epochs": 1, "warmup_epochs": 0, "batch_size": 32},
        "classifier": {"iterations": 1},
    }
    started = time.monotonic()
    metrics = pipeline.run(load(values), verbose=False)
    whole = time.monotonic() - started
    store = Store(values["out"])
    seconds = {"list": store.require("list").seconds}
    seconds |= {stage: store.require(stage).seconds for stage in pipeline.STAGES}
    seconds["start"] = whole - sum(seconds.values())
    assert metrics["predict"]["labelled"] == 64
    return {name: max(value, 1e-3) for name, value in seconds.items()}


def measured() -> tuple[dict[str, float], dict[str, float]]:
    """(section `host` but `list`, fixed seconds by stage)."""
    with tempfile.TemporaryDirectory() as folder:
        return pictures() | tables(folder) | training_files() | draw() | ensembles(), stages(folder)
