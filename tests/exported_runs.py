"""Runs with a classifier that was not trained, made without a cluster by the functions that the stages call."""

import json

import numpy as np
import torch

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.stages import listing
from icce_ray.stages.classifier import Labeller
from icce_ray.stages.features import list_column, wide
from icce_ray.store import Store
from icce_ray.store import artifacts as a

CLASSES = 4
#: First lines of a program that has neither Ray nor this package.
WITHOUT_US = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "icce_ray"):
            raise ImportError(f"{name} was asked for")

sys.meta_path.insert(0, Absent())
"""


def classified_run(root, source, *, columns=None, classes=CLASSES, **embed):
    """A run of the images in the folder `source`: features, a classifier of random weights, its predictions.

    The classifier reads `columns` of the features, by default all.
    """
    store = Store(str(root))
    settings = load({"source": str(source), "clusters": classes, "out": store.root, "embed": embed})
    store.claim(settings)
    files, summary = listing.run(find_source(SourceSpec(str(source))), store, Progress(), rows_per_shard=1000)
    commit(store, "list", files, summary)
    own = settings.embed
    options = {"n_last_blocks": own.n_last_blocks, "image_size": own.image_size, "resize": own.resize}
    info = describe_backbone(own.backbone, own.features, **options)
    rows = store.storage.read_table(files[0].path).select(["image_id", "uri", "key"])
    resizing = info.preprocessing.resizing
    pictures = [
        decode((source / key).read_bytes(), size=info.image_size, resize=resizing, max_pixels=own.max_pixels)
        for key in rows["key"].to_pylist()
    ]
    found = load_backbone(info).embed(np.stack(pictures))
    main = found.main.astype(np.float16)
    blocks = None if found.cls_blocks is None else found.cls_blocks.astype(np.float16)
    table = rows.append_column("features", list_column(main))
    table = table if blocks is None else table.append_column("cls_blocks", list_column(blocks))
    layout = {name: list(span) for name, span in info.layout.items()}
    counts = {"images": len(rows), "ok": len(rows), "rejected": 0, "rejected_by_reason": {}}
    shapes = {"dim": info.dim, "layout": layout, "block_dim": info.block_dim}
    commit(store, "embed", [a.FEATURES.write(store.storage, table, 0)], counts | shapes)
    finish(store, main, blocks, columns or [[0, info.dim + info.block_dim]], classes, settings)
    return store


def finish(store, main, blocks, columns, classes, settings):
    """The stages after `embed`: figures alone of those in between."""
    images, rows = len(main), store.storage.read_table(a.FEATURES.part(0)).select(["image_id", "uri", "key"])
    commit(store, "sample", [], {"images": images, "of": images})
    commit(store, "heads", [], {"heads": 2, "alarms": [{"text": "the loss of head 1 is not finite"}]})
    kept = {"method": "hbgf", "anmi": 0.5, "mean_agreement": 0.75, "cluster_sizes": [images, 0], "alarms": []}
    commit(store, "consensus", [], kept)
    seen = torch.from_numpy(wide(main, blocks)[:, np.concatenate([np.arange(*part) for part in columns])]).float()
    weight = torch.randn(classes, seen.shape[1], generator=torch.Generator().manual_seed(1))
    weight *= 2 / ((seen - seen.mean(0)) @ weight.T).std()  # neither certain nor all in one class
    described = {"columns": columns, "classes": classes, "embed": settings.embed.model_dump(mode="json")}
    store.storage.write_bytes(a.CLASSIFIER_DESCRIPTION.path, json.dumps(described).encode())
    tensors = {"weight": weight, "bias": -(weight @ seen.mean(0))}
    weights = store.storage.write_tensors(a.CLASSIFIER_WEIGHTS.path, tensors)
    files = [weights, store.storage.describe(a.CLASSIFIER_DESCRIPTION.path)]
    commit(store, "classifier", files, {"heldout_accuracy": 0.9, "heldout_images": 10})
    found = Labeller(store.root, device="cpu")(main, blocks)
    sizes = np.bincount(found.label, minlength=classes).tolist()
    figures = {"class_sizes": sizes, "mean_confidence": float(found.confidence.mean())}
    commit(store, "predict", [a.PREDICTIONS.write(store.storage, found.beside(rows), 0)], figures)


def commit(store, stage, files, summary):
    store.commit(stage, files, fingerprint="x", summary=summary, seconds=0)


def predictions(store):
    """(keys, label int32[n], confidence float32[n]) that the run has stored."""
    table = store.storage.read_table(a.PREDICTIONS.part(0))
    return table["key"].to_pylist(), table["label"].to_numpy(), table["confidence"].to_numpy()
