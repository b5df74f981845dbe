"""Speeds of the backbone, of the stage `embed` against it, and of the classifier's grid."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rates_device import SHAPES, SIDE, forward, label, linear, random_weights

from gpu.day import Day, Figures

#: Images of a forward pass: the default of `resources.embed_batch`, and four times as many.
BATCHES = (64, 256)


def backbone(day: Day) -> Figures:
    """DINOv2 of random weights through the adapter: images per second, and the share of the card's bfloat16 rate."""
    from icce_ray.backbones import TransformerShape

    found: Figures = {"rates": {}}
    for size, shape in day.size(SHAPES, {"large": (64, 2, 2)}).items():
        work = TransformerShape(width=shape[0], depth=shape[1]).flops(SIDE)
        with random_weights(shape) as weights:
            for batch in day.size(BATCHES if size == "large" else BATCHES[:1], (1, 2)):
                flops = forward(weights, shape, day.device, batch)
                share = day.share(flops, "bfloat16_tflops", 1e12)
                found[f"{size}, batch {batch}"] = {"images_per_second": flops / work, "share_of_arithmetic": share}
                found["rates"].setdefault(f"forward_{size}", flops)
    return found


def embed(day: Day) -> Figures:
    """The stage `embed` from JPEG files to shards with ViT-L: images per second, as a share of the bare backbone's."""
    from embed import folders, staged

    from icce_ray.backbones import TransformerShape

    day.connect()
    shape, (few, many) = day.size(SHAPES["large"], (64, 2, 1)), day.size((1000, 8000), (4, 8))
    settings = argparse.Namespace(precision="auto")
    with random_weights(shape) as weights, tempfile.TemporaryDirectory() as place:
        seconds = [
            staged(weights, folder, Path(place) / f"run-{folder.name}", settings, "embed")
            for folder in folders(Path(place), few, many)
        ]
        flops = forward(weights, shape, day.device, day.size(BATCHES[0], 2))
    bare = flops / TransformerShape(width=shape[0], depth=shape[1]).flops(SIDE)
    rate = (many - few) / max(seconds[1] - seconds[0], 1e-3)
    return {"images_per_second": rate, "of_the_bare_backbone": rate / bare, "seconds": seconds, "images": [few, many]}


def classifier(day: Day) -> Figures:
    """50 iterations of the grid of linear classifiers, and the chosen one on shards of 1,024 images."""
    dim, clusters, iterations = day.size((2048, 1000, 50), (16, 5, 2))
    rates = {"linear": linear(day.device, dim=dim, clusters=clusters, iterations=iterations)}
    share = day.share(rates["linear"], "bfloat16_tflops", 1e12)
    return {"iterations": iterations, "share_of_arithmetic": share, "rates": rates | {"label": label(day.device)}}


def card(day: Day) -> Figures:
    """What every other figure is of: the card and its versions."""
    if day.device == "cpu":
        return {"device": "cpu", "torch": torch.__version__}
    found = torch.cuda.get_device_properties(0)
    return {
        "device": found.name,
        "memory_gb": found.total_memory / 1e9,
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
