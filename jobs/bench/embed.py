"""The stages `embed` and `predict` against bare forward passes of the same model and a plain DataLoader script.

    python jobs/bench/embed.py [--few 128 --many 640 --width 384 --depth 12 --precision float32]
    python jobs/bench/embed.py --memory 1024 32768 [--images 32768]

The model is a DINOv2 with random weights (ViT-S/14 by default), the pictures are JPEGs of 500 x 375. Bare: the model of
`transformers` on tensors in memory, on all cores, for several batch sizes. Script: a Dataset that opens files with
Pillow, two workers, the same model. `embed` and `predict`: whole stages as `icce run` and `icce predict` call them,
each on a Ray of its own. Rates are slopes between few and many images; what is left at no images is the fixed cost.

`--memory`: the most memory of any process of `embed`, and the object store's, by rows per shard. Pictures have the size
of any at the backbone, which is a tiny one; what a task that writes takes of ViT-L's features is measured on made-up
ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from decode import BICUBIC, pictures
from measuring import Watch, fresh_peak, header, in_a_process, options, peak, row
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import Dinov2Config, Dinov2Model
from transformers.utils import logging

from icce_ray import commands, pipeline
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.sources import SourceSpec, open_source
from icce_ray.settings import EmbedSettings, load
from icce_ray.stages.chunks import write
from icce_ray.stages.classifier import Labeller
from icce_ray.stages.embed import described_input
from icce_ray.stages.features import list_column
from icce_ray.stages.stream import Stream, packed
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, REJECTS

SIDE, BATCH, WORKERS = 224, 64, 2
SHARD = 32  # small, so that few and many images both make work for every actor
BLOCK = 256  # rows of a block of pictures of this side
BARE_BATCHES = (8, 64)
CLASSES = 4
TINY_HEADS = {"heads": 2, "hidden": 16, "bottleneck": 8, "epochs": 1, "warmup_epochs": 0, "batch_size": 32}
MEAN, STD = torch.tensor((0.485, 0.456, 0.406))[:, None, None], torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def timed(work: Callable[[], Any]) -> float:
    """Seconds on the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def products(device: str, precision: str) -> Iterator[None]:
    """A forward pass as everybody writes it."""
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def bare(model: Any, device: str, precision: str, images: int) -> dict[int, float]:
    """Images per second of the model alone by batch size, the better of two passes over so many images."""
    found = {}
    for batch in BARE_BATCHES if device == "cpu" else (BATCH, 4 * BATCH):
        x = torch.randn(batch, 3, SIDE, SIDE, device=device)
        passes = max(1, images // batch)

        def work(x: torch.Tensor = x, passes: int = passes) -> None:
            with products(device, precision):
                for _ in range(passes):
                    model(pixel_values=x).last_hidden_state[0, 0, 0].item()  # waits for a GPU

        work()
        found[batch] = batch * passes / min(timed(work), timed(work))
    return found


class Files(Dataset):
    """Pictures of a folder as normalised tensors, by Pillow at full size."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            pixels = np.array(image.convert("RGB").resize((SIDE, SIDE), BICUBIC))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - MEAN) / STD


def script(model: Any, device: str, precision: str, folder: Path) -> float:
    """Seconds of the plain script."""
    features = []

    def work() -> None:
        loader = DataLoader(Files(folder), batch_size=BATCH, num_workers=WORKERS, pin_memory=device == "cuda")
        with products(device, precision):
            for batch in loader:
                tokens = model(pixel_values=batch.to(device, non_blocking=True)).last_hidden_state
                features.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).cpu())

    return timed(work)


def staged(weights: str, source: Path, out: Path, args: argparse.Namespace, last: str) -> float:
    """Seconds of the stage `embed` of a run over a folder that goes on to the stage `last`."""
    values = {
        "source": str(source),
        "out": str(out),
        "clusters": CLASSES,
        "embed": {"backbone": weights, "image_size": SIDE, "rows_per_shard": SHARD, "precision": args.precision},
        "heads": TINY_HEADS,
        "classifier": {"iterations": 10},
    }
    pipeline.run(load(values), last=last, verbose=False)
    return Store(str(out)).require("embed").seconds


def predicted(run: Path, source: Path, out: Path) -> float:
    """Seconds of the stage `predict` over a folder, straight from its images."""
    commands.predict(str(run), str(source), str(out), verbose=False)
    return Store(str(out)).require("predict").seconds


def labelling(weights: str, run: Path, device: str, precision: str) -> float:
    """What labelling adds to the backbone's time on a batch, as a share of it."""
    backbone = load_backbone(describe_backbone(weights, "cls+patch_mean"), device=device, dtype=precision)
    labeller = Labeller(str(run), device=device)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    main = backbone.embed(pixels).main.astype(np.float16)
    labeller(main, None)
    return min(timed(lambda: labeller(main, None)) for _ in range(5)) / timed(lambda: backbone.embed(pixels))


def folders(where: Path, few: int, many: int) -> tuple[Path, Path]:
    """Two folders of links to the same 16 pictures: an image a link."""
    files, made = pictures(500, 375, 16, "JPEG"), []
    for count in (few, many):
        folder = where / f"images-{count}"
        folder.mkdir()
        for index in range(count):
            (folder / f"{index:05d}.jpg").write_bytes(files[index % len(files)])
        made.append(folder)
    return made[0], made[1]


def weights_of(where: Path, width: int, depth: int, patch: int = 14) -> Any:
    """A model with random weights, which it leaves in a folder."""
    shape: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
    model: Any = Dinov2Model(Dinov2Config(**shape, patch_size=patch, image_size=518 if patch == 14 else SIDE)).eval()
    model.save_pretrained(where / "weights")
    return model


def memory_of(rows: int, images: int) -> dict[str, float]:
    """MiB and seconds of `embed` over images of 128 x 96, links to 16, in shards of so many rows; in this process."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as place:
        where, files = Path(place), pictures(128, 96, 16, "JPEG")
        weights_of(where, 64, 1, SIDE // 2)
        for index in range(images):
            folder = where / f"images/{index // 1000:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            if index < len(files):
                (folder / f"{index:06d}.jpg").write_bytes(files[index])
            else:
                os.link(where / f"images/00000/{index % len(files):06d}.jpg", folder / f"{index:06d}.jpg")
        embed = {"backbone": str(where / "weights"), "image_size": SIDE, "rows_per_shard": rows}
        values = {"source": str(where / "images"), "out": str(where / "run"), "clusters": CLASSES, "embed": embed}
        watch.start()
        pipeline.run(load(values), last="embed", verbose=False)
        seconds = Store(str(where / "run")).require("embed").seconds
    return {name: watch.most[name] for name in ("task", "shared", "driver")} | {"seconds": seconds}


def writer_of(rows: int) -> dict[str, float]:
    """MiB that the task that writes a shard of so many rows adds to a process: ViT-L's features, made up, in blocks."""
    dim, rng, blocks = 2 * 1024, np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as out:
        source = open_source(SourceSpec("none.npy", format="features", dim=dim))
        made = {"info": described_input(source, EmbedSettings()), "embed": EmbedSettings(), "batch": BATCH}
        stream = Stream(source=source, root=out, accepted=FEATURES, rejected=REJECTS, **made)
        for start in range(0, rows, BLOCK):
            ids = range(start, min(start + BLOCK, rows))
            names, nothing = [f"images/{index:09d}.jpg" for index in ids], pa.nulls(len(ids), pa.string())
            facts = {"chunk": [0] * len(ids), "chunk_rows": [rows] * len(ids), "image_id": list(ids)}
            facts |= {"uri": names, "key": names, "reason": nothing, "detail": nothing}
            values = rng.standard_normal((len(ids), dim), dtype=np.float32).astype(np.float16)
            blocks.append(packed(pa.table(facts | {"features": list_column(values)})))
        before = fresh_peak()
        write(pa.concat_tables(blocks), stream=stream)
    return {"write": peak() - before}


def memory(sizes: list[int], images: int) -> None:
    """Print a table, each size in a process of its own."""
    header("rows per shard", "images", "largest process, MiB", "object store, MiB", "driver, MiB", "s", "writing, MiB")
    for size in sizes:
        found = in_a_process(__file__, "--memory-of", size, "--images", images)
        call = in_a_process(__file__, "--writer-of", size)["write"]
        task, shared, driver, seconds = found.values()
        row(f"{size:,}", f"{images:,}", task, shared, driver, f"{seconds:.0f}", f"{call:.0f}")


def main() -> None:
    """Print the table."""
    parser = options(__doc__, few=128, many=640, width=384, depth=12, precision="float32", images=32_768)
    parser.add_argument("--memory", type=int, nargs="+", help="rows per shard to measure memory with")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--writer-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if args.memory_of:
        print(json.dumps(memory_of(args.memory_of, args.images)))
    elif args.writer_of:
        print(json.dumps(writer_of(args.writer_of)))
    elif args.memory:
        memory(args.memory, args.images)
    else:
        rates(args)


def rates(args: argparse.Namespace) -> None:
    """Print the table of rates."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as place:
        where = Path(place)
        model = weights_of(where, args.width, args.depth)
        model.to(device)
        few, many = folders(where, args.few, args.many)
        weights, run = str(where / "weights"), where / "run"
        print(f"{device}, {args.precision}, width {args.width}, depth {args.depth}")
        alone = bare(model, device, args.precision, min(64, args.few))
        print(f"bare, images/s by batch: {alone}")
        ways = {
            "DataLoader script": [
                lambda folder=folder: script(model, device, args.precision, folder) for folder in (few, many)
            ],
            "embed": [
                lambda: staged(weights, few, run, args, "classifier"),
                lambda: staged(weights, many, where / "run-many", args, "embed"),
            ],
            "predict": [
                lambda folder=folder: predicted(run, folder, where / f"labels-{folder.name}") for folder in (few, many)
            ],
        }
        seconds = {}
        for name, (short, long) in ways.items():
            seconds[name] = (short(), long())
            print(f"{name}: {seconds[name][0]:.1f} s, {seconds[name][1]:.1f} s")
        print_table(args, alone, seconds)
        share = labelling(weights, run, device, args.precision)
        print(f"labelling adds {100 * share:.3f} % to the time of the backbone on a batch of {BATCH}")


def print_table(
    args: argparse.Namespace, bare_rates: dict[int, float], seconds: dict[str, tuple[float, float]]
) -> None:
    """Rates against the fastest bare one."""
    best = max(bare_rates.values())
    header("what", "images/s", "of the best bare rate", "fixed s", f"s of {args.few}", f"s of {args.many}")
    for batch, rate in bare_rates.items():
        row(f"bare, batch {batch}", f"{rate:.1f}", f"{rate / best:.2f}", "", "", "")
    for name, (short, long) in seconds.items():
        slope = (long - short) / (args.many - args.few)
        rate, fixed = 1 / slope, short - slope * args.few
        row(name, f"{rate:.1f}", f"{rate / best:.2f}", f"{fixed:.1f}", f"{short:.1f}", f"{long:.1f}")


if __name__ == "__main__":
    main()
