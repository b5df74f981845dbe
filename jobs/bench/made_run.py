"""A run that nobody computed: images, and every file of a run that people's tools read, of any size, in seconds.

Labels, head labels and neighbours are drawn so that they look like those of a real run: classes of unequal size, heads
that confuse neighbouring classes, rejects of several reasons. Features and weights are left out: only workers read
them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from icce_ray.core.hierarchy import co_association
from icce_ray.core.metrics import head_contingency, pairwise_nmi
from icce_ray.core.sampling import uniform_rows
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings, load
from icce_ray.stages import listing
from icce_ray.stages.features import matrix
from icce_ray.stages.inspect import hierarchy
from icce_ray.store import Store, fingerprint
from icce_ray.store.artifacts import (
    CLASSIFIER_GRID,
    CONSENSUS,
    FINDINGS,
    HEAD_LABELS,
    HEAD_LOSSES,
    HIERARCHY,
    MAP,
    NEIGHBORS,
    PREDICTIONS,
    REJECTS,
    Table,
)

SHARD = 4096
REASONS = ("truncated", "not_an_image", "too_many_pixels")


def pictures(count: int, side: int, seed: int) -> list[bytes]:
    """JPEG files of smooth coloured noise, about as large as thumbnails of photographs."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        fine = random.integers(-12, 13, (side, side, 3))
        picture = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + fine
        sink = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(sink, "JPEG", quality=80)
        found.append(sink.getvalue())
    return found


def parquet_source(folder: Path, images: int, *, distinct: int = 200, side: int = 96, seed: int = 0) -> str:
    """A folder of Parquet files with `images` rows of `distinct` different pictures, in row groups of a thousand."""
    folder.mkdir(parents=True)
    files = pa.array(pictures(distinct, side, seed), pa.binary())
    random = np.random.default_rng(seed)
    for part, first in enumerate(range(0, images, 50_000)):
        rows = min(50_000, images - first)
        names = pa.array([f"{first + row:08d}.jpg" for row in range(rows)])
        table = pa.table({"key": names, "image": files.take(pa.array(random.integers(0, distinct, rows)))})
        pq.write_table(table, folder / f"{part:04d}.parquet", row_group_size=1000, compression="zstd")
    return str(folder)


def make_run(
    out: str,
    source: str,
    *,
    clusters: int,
    heads: int = 50,
    epochs: int = 100,
    rejects: int = 0,
    neighbors: int = 20,
    alarms: Sequence[str] = (),
    seed: int = 0,
) -> Store:
    """A complete run over the images of `source`; `rejects` of them are said to be rejected."""
    settings = load(
        {"source": source, "clusters": clusters, "out": out, "seed": seed}
        | {
            "embed": {"backbone": "hog", "features": "hog"},
            "heads": {"heads": heads, "epochs": epochs, "warmup_epochs": 1},
        }
    )
    store, random = Store(out), np.random.default_rng(seed)
    store.claim(settings)
    found = find_source(SourceSpec(source))
    files, listed = listing.run(found, store, Progress(), rows_per_shard=SHARD)
    _commit(store, settings, "list", files, listed)
    table = pa.concat_tables([store.storage.read_table(info.path) for info in files])
    bad = np.sort(random.choice(len(table), rejects, replace=False))
    good = np.setdiff1d(np.arange(len(table)), bad)
    _embed(store, settings, table, bad)
    label = random.choice(clusters, len(good), p=_shares(clusters, random)).astype(np.int32)
    _neighbors(store, settings, table, good, neighbors, random)
    _heads(store, settings, table, good, label, list(alarms), random)
    _labels(store, settings, table, good, label, random)
    _inspected(store, settings, label)
    return store


def _shares(clusters: int, random: np.random.Generator) -> np.ndarray:
    shares = random.lognormal(0.0, 0.5, clusters)
    return shares / shares.sum()


def _commit(store: Store, settings: Settings, stage: str, files: list[FileInfo], summary: dict[str, Any]) -> None:
    store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=1.0 + len(files))
    store.record(stage, summary)


def _parts(store: Store, artifact: Table, columns: dict[str, Any]) -> list[FileInfo]:
    table = pa.table(columns)
    return [
        store.storage.write_table(artifact.part(index), table.slice(first, SHARD).combine_chunks())
        for index, first in enumerate(range(0, max(1, len(table)), SHARD))
    ]


def _embed(store: Store, settings: Settings, table: pa.Table, bad: np.ndarray) -> None:
    reasons = [REASONS[row % len(REASONS)] for row in range(len(bad))]
    why = {"reason": pa.array(reasons, pa.string()), "detail": pa.array([f"made up, {row}" for row in bad.tolist()])}
    rows = table.take(pa.array(bad))
    names = {name: rows[name] for name in ("image_id", "uri", "key")}
    files = _parts(store, REJECTS, names | why)
    summary = {
        "images": len(table),
        "ok": len(table) - len(bad),
        "rejected": len(bad),
        "rejected_by_reason": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        "first_rejects": [],
        "dim": 8,
        "layout": {"hog": [0, 8]},
        "block_dim": 0,
    }
    _commit(store, settings, "embed", files, summary)
    _commit(store, settings, "sample", [], {"images": summary["ok"], "of": summary["ok"], "seed": 0})


def _neighbors(
    store: Store, settings: Settings, table: pa.Table, good: np.ndarray, mean: int, random: np.random.Generator
) -> None:
    counts = random.poisson(mean, len(good)) + 5
    offsets = np.concatenate([[0], counts.cumsum()])
    files = []
    for index, first in enumerate(range(0, len(good), SHARD)):
        last = min(first + SHARD, len(good))
        within = pa.array(offsets[first : last + 1] - offsets[first])
        pairs = int(offsets[last] - offsets[first])
        similarities = pa.array(random.uniform(0.3, 1.0, pairs).astype(np.float32))
        ids = pa.array(random.choice(good, pairs))
        columns = {"image_id": pa.array(good[first:last]), "key": table["key"].take(pa.array(good[first:last]))}
        columns["neighbor_ids"] = pa.LargeListArray.from_arrays(within, ids)
        columns["similarities"] = pa.LargeListArray.from_arrays(within, similarities)
        files.append(store.storage.write_table(NEIGHBORS.part(index), pa.table(columns)))
    summary = {
        "images": len(good),
        "pairs": int(counts.sum()),
        "mean_neighbors": float(counts.mean()),
        "smallest": int(counts.min()),
        "largest": int(counts.max()),
        "share_at_k_min": float((counts == 5).mean()),
        "threshold": 0.3,
        "k_min": 5,
        "k_max": int(counts.max()),
    }
    _commit(store, settings, "neighbors", files, summary)


def _heads(
    store: Store,
    settings: Settings,
    table: pa.Table,
    good: np.ndarray,
    label: np.ndarray,
    alarms: list[str],
    random: np.random.Generator,
) -> None:
    heads, epochs, clusters = settings.heads.heads, settings.heads.epochs, settings.clusters
    grid = {"epoch": np.repeat(np.arange(epochs), heads), "head": np.tile(np.arange(heads), epochs)}
    falling = (-2 * (1 - np.exp(-np.arange(epochs) / 20)))[:, None] + random.normal(0, 0.05, (epochs, heads))
    losses = {"temi": falling.ravel().astype(np.float32), "cross_entropy": (3 + falling).ravel().astype(np.float32)}
    files = [store.storage.write_table(HEAD_LOSSES.path, pa.table(grid | losses))]
    for index, first in enumerate(range(0, len(good), SHARD)):
        mine = label[first : first + SHARD]
        # One image of five goes to the next class: heads confuse some classes more than others.
        off = random.random((len(mine), heads)) < 0.2
        labels = ((mine[:, None] + off) % clusters).astype(np.int32)
        rows = pa.array(good[first : first + SHARD])
        columns = {"image_id": rows, "key": table["key"].take(rows)}
        columns["labels"] = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), heads)
        files.append(store.storage.write_table(HEAD_LABELS.part(index), pa.table(columns)))
    raised = [{"name": "made_up", "value": 0.0, "limit": 1.0, "text": text} for text in alarms]
    last = falling[-1].tolist()
    summary = {"epochs": epochs, "heads": heads, "best_head": int(np.argmin(falling[-1])), "temi": last}
    _commit(store, settings, "heads", files, summary | {"cross_entropy": last, "alarms": raised})


def _labels(
    store: Store, settings: Settings, table: pa.Table, good: np.ndarray, label: np.ndarray, random: np.random.Generator
) -> None:
    rows, clusters = table.take(pa.array(good)), settings.clusters
    names = {name: rows[name] for name in ("image_id", "uri", "key")} | {"label": pa.array(label)}
    agreement = random.beta(8, 2, len(good)).astype(np.float32)
    confidence = random.beta(20, 1, len(good)).astype(np.float32)
    sizes = np.bincount(label, minlength=clusters)
    files = _parts(store, CONSENSUS, names | {"agreement": pa.array(agreement)})
    summary = {"method": "hbgf", "scores": {"hbgf": 0.8}, "refused": {}, "anmi": 0.8, "votes": 1, "alarms": []}
    summary |= {"mean_agreement": float(agreement.mean()), "cluster_sizes": sizes.tolist()}
    _commit(store, settings, "consensus", files, summary | {"empty_clusters": int((sizes == 0).sum())})
    rates = list(settings.classifier.learning_rates)
    grid = {"input": ["hog"] * len(rates), "learning_rate": rates, "accuracy": np.linspace(0.5, 0.9, len(rates))}
    file = store.storage.write_table(CLASSIFIER_GRID.path, pa.table(grid | {"loss": rates}))
    _commit(store, settings, "classifier", [file], {"input": "hog", "learning_rate": rates[-1]})
    second = {"runner_up": pa.array((label + 1) % clusters), "runner_up_confidence": pa.array((1 - confidence) / 2)}
    files = _parts(store, PREDICTIONS, names | {"confidence": pa.array(confidence)} | second)
    summary = {"labelled": len(good), "class_sizes": sizes.tolist(), "mean_confidence": float(confidence.mean())}
    _commit(store, settings, "predict", files, summary)


def _inspected(store: Store, settings: Settings, label: np.ndarray) -> None:
    """The tree of the classes, from the head labels that were drawn."""
    clusters = settings.clusters
    heads, agreement = (
        pa.concat_tables([store.storage.read_table(info.path, [name]) for info in files])[name]
        for name, files in (
            ("labels", HEAD_LABELS.files(store.require("heads").files)),
            ("agreement", CONSENSUS.files(store.require("consensus").files)),
        )
    )
    labels, sizes = matrix(heads), np.bincount(label, minlength=clusters)
    together = co_association(head_contingency(labels, label, np.full(labels.shape[1], clusters), clusters))
    agreed = np.bincount(label, agreement.to_numpy(), clusters)
    step = max(1, len(labels) // hierarchy.COMPARED)
    found = hierarchy.document(together, sizes, agreed, pairwise_nmi(labels[::step]), len(labels[::step]))
    store.storage.write_bytes(HIERARCHY.path, json.dumps(found).encode())
    store.storage.write_bytes(FINDINGS.path, b"{}")
    files = [store.storage.describe(one.path) for one in (HIERARCHY, FINDINGS)]
    _commit(store, settings, "inspect", files, {})


def add_map(store: Store, places: np.ndarray | None = None) -> pa.Table:
    """Give a run a map of its images, or of as many as a map has; returns it.

    They lie at `places` float32[n, 2], or around a place of their class.
    """
    files = PREDICTIONS.files(store.require("predict").files)
    table = pa.concat_tables([store.storage.read_table(info.path) for info in files]).sort_by("image_id")
    table = table.take(uniform_rows(len(table), min(len(table), store.settings().inspect.map_images), seed=0))
    if places is None:
        random, label = np.random.default_rng(0), table["label"].to_numpy()
        middles = random.normal(0, 10, (label.max() + 1, 2))
        spread = random.uniform(0.5, 2.0, label.max() + 1)[label, None]
        places = middles[label] + spread * random.normal(size=(len(label), 2))
    names = {name: table[name].combine_chunks() for name in ("image_id", "uri", "key", "label")}
    found = pa.table(names | dict(zip("xy", np.asarray(places, np.float32).T, strict=True)))
    marker = store.marker(MAP.stage)
    others = [info for info in marker.files if info.path != MAP.path] if marker else []
    summary, mark = (marker.summary, marker.fingerprint) if marker else ({}, "made up")
    store.commit(MAP.stage, [*others, MAP.write(store.storage, found)], fingerprint=mark, summary=summary, seconds=1.0)
    return found
