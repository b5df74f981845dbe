"""`icce export`: predictions for other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.terminal import Terminal

MEGABYTE = 1_000_000


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the output of `icce predict`.")],
    out: Annotated[str, typer.Option(help="New local file or folder.")],
    form: Annotated[str, typer.Option("--format", help="See above.")] = "csv",
    names: Annotated[str | None, typer.Option(help="CSV of label and name: names of clusters.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Link to files of a local folder.")] = False,
    shard_mb: Annotated[int | None, typer.Option(help="Of webdataset: megabytes a tar (1,000).")] = None,
    shard_images: Annotated[int | None, typer.Option(help="Of webdataset: images a tar (10,000).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Write labels, confidences and names of the images of RUN for other tools.

    csv, parquet: one table of uri, key, label, confidence, name.
    imagefolder: a folder a class, for torchvision and Hugging Face.
    webdataset: tar files. fiftyone: FiftyOneImageClassificationDataset.

    Files keep their bytes. Exit status 3 if images could not be read any
    more: OUT holds the others, and unreadable.csv names those.

    Example: icce export runs/photos --format imagefolder --out sorted
    """
    from icce_ray.cli.main import EXIT_REJECTS
    from icce_ray.export.formats import export_predictions
    from icce_ray.export.samples import UNREADABLE
    from icce_ray.progress import stage_progress
    from icce_ray.store import Store

    limits = {"shard_images": shard_images, "shard_bytes": None if shard_mb is None else shard_mb * MEGABYTE}
    with stage_progress("export", verbose=not quiet) as progress:
        done = export_predictions(Store(run), form, out, progress, names=names, link=link, **limits)
    if not quiet:
        Terminal().print_line(f"{done.images:,} images: {out}")
    if done.unreadable:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in done.unreadable.most_common())
        Terminal(stderr=True).print_line(
            f"left out: {done.unreadable.total():,} images that cannot be read any more ({reasons}); "
            f"{out}/{UNREADABLE} names them"
        )
        raise typer.Exit(EXIT_REJECTS)
