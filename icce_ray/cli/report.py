"""`icce report`: one page about a run, to look at."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.terminal import Terminal


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Directory or URI of a run.")],
    names: Annotated[str | None, typer.Option(metavar="FILE", help="CSV: label, name of classes.")] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", metavar="", help="End whoever else writes there: a run that you know is dead."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show no progress.")] = False,
) -> None:
    """Write the page to look at: RUN/report/index.html.

    The verdict, the images of each class, charts, rejects, times and settings in
    one file that needs no network. Every run ends with it, and `icce evaluate`
    renews it; this adds names of classes and new sweeps.

    Example: icce report runs/photos --names names.csv
    """
    from icce_ray import pipeline

    page = pipeline.report_run(run, names=names, take_over=take_over, verbose=not quiet)
    Terminal().print_line(page)
