"""`icce export`: predictions for other tools."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the output of `icce predict`.")],
    out: Annotated[str, typer.Option(help="Local file to write; it must not be there yet.")],
    form: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    names: Annotated[str | None, typer.Option(help="CSV with columns label and name: names of clusters.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Write uri, key, label, confidence of every image of RUN as one table, with cluster names from --names.

    Example: icce export runs/photos --format csv --out photos.csv --names names.csv
    """
    from icce_ray.adapters.progress import Display, silent
    from icce_ray.export.tables import export_table
    from icce_ray.store import Store

    with (silent if quiet else Display)("export") as progress:
        rows = export_table(Store(run), form, out, progress, names=names)
    if not quiet:
        Console().print(f"{rows:,} images: {out}", markup=False, highlight=False, soft_wrap=True)
