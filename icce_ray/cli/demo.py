"""`icce demo`: real digits through the whole run, seen and unseen, with every figure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from icce_ray.cli.options import Quiet
from icce_ray.terminal import Terminal

#: Scikit-learn's digits are shapes, which a histogram of gradients describes without weights to download.
SETTINGS = {"embed": {"backbone": "hog", "features": "hog", "rows_per_shard": 360}}


def demo(
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="For images and runs; a run there is resumed.")
    ] = "demo-run",
    seed: Annotated[int, typer.Option(metavar="N", help="Of all random numbers.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Cluster the 1,797 real digits that scikit-learn brings; score it.

    A fifth of them is kept aside and predicted as unseen. Needs no download and about a minute.

    Example: icce demo
    """
    from icce_ray import commands, pipeline
    from icce_ray.cli.tables import consensus_table, scores_table, stages_table
    from icce_ray.report.labels import headline
    from icce_ray.settings import load
    from icce_ray.stages.connection import connected
    from icce_ray.store import Store

    console, started, folder = Terminal(), time.monotonic(), Path(out)
    write_digits(folder)
    run_root = str(folder / f"run-seed{seed}")
    settings = load({"source": str(folder / "seen"), "clusters": 10, "out": run_root, "seed": seed} | SETTINGS)
    unseen, labels = str(folder / f"unseen-seed{seed}"), str(folder / "labels.csv")
    with connected():
        pipeline.run(settings, verbose=not quiet)
        commands.predict(run_root, str(folder / "unseen"), unseen, verbose=not quiet)
        figures = commands.evaluate(run_root, labels, predictions=unseen, kmeans=True, verbose=not quiet)
    store = Store(run_root)
    seconds = time.monotonic() - started
    store.record("demo", {"seconds": round(seconds, 1)})
    metrics = store.metrics()
    console.print(stages_table(store))
    console.print(consensus_table(metrics["consensus"]))
    console.print(scores_table(headline(store, figures)))
    console.print_line(f"{seconds:.0f} s in all. The same figures are in {run_root}/metrics.json")
    console.print_line(f"Look at the classes: {store.report()}")


def write_digits(folder: Path) -> None:
    """scikit-learn's 8 x 8 digits as PNG files: `seen/`, a random fifth in `unseen/`, the truth in `labels.csv`."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    unseen = set(np.random.default_rng(0).permutation(len(digits.images))[: len(digits.images) // 5].tolist())
    truth = ["uri,label"]
    for name in ("seen", "unseen"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"{index:04d}.png"
        path = folder / ("unseen" if index in unseen else "seen") / name
        if not path.exists():  # grey values run from 0 to 16
            Image.fromarray((image * 15.9375).astype(np.uint8)).save(path)
        truth.append(f"{name},{label}")
    (folder / "labels.csv").write_text("\n".join(truth) + "\n")
