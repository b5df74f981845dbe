"""`icce run`, and `icce settings`: what a run may be asked."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from icce_ray.cli.options import SETTINGS, STAGES, Config, Format, Overrides, Quiet, Source, TakeOver
from icce_ray.terminal import Terminal

#: Of `icce settings` where the output is no terminal, which would tell its width.
_WIDTH = 160


def _count(text: str) -> int | str:
    """A number where it is one; the settings say what is wrong with anything else."""
    return int(text) if text.lstrip("-").isdecimal() else text


def run(
    source: Source,
    out: Annotated[str, typer.Option(metavar="RUN", help="Directory or URI of the run.")],
    clusters: Annotated[
        Any, typer.Option("--clusters", "-k", metavar="K", parser=_count, help="Number of classes, or auto: find it.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Image model of transformers (hub id such as facebook/dinov2-large, or a local directory), timm:NAME, "
            "or hog (no download); may be repeated: each is a feature space.",
        ),
    ] = None,
    kind: Format = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of all random numbers.", rich_help_panel=SETTINGS)
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    first: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="First stage to run.", rich_help_panel=STAGES)
    ] = "embed",
    last: Annotated[
        str, typer.Option("--until", metavar="STAGE", help="Last stage to run.", rich_help_panel=STAGES)
    ] = "inspect",
    redo: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Delete this stage and all after it; run them.", rich_help_panel=STAGES),
    ] = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Cluster images into K classes and train a classifier for more.

    Complete stages are skipped and a killed run goes on where it was: give the same command again.

    Example: icce run photos/ --clusters 20 --backbone facebook/dinov2-base --out runs/photos
    """
    from icce_ray import pipeline
    from icce_ray.cli.tables import consensus_table, show_rejects
    from icce_ray.settings import load
    from icce_ray.store import RejectBudgetError, Store

    values: dict[str, Any] = {"source": source, "out": out, "clusters": clusters, "seed": seed}
    if backbone:
        values["embed"] = {"backbone": backbone}
    extra = [f"list.format={kind}"] if kind else []
    settings = load(values, config=config, overrides=[*(overrides or []), *extra])
    console, store = Terminal(), Store(settings.out)
    try:
        metrics = pipeline.run(settings, first=first, last=last, redo=redo, take_over=take_over, verbose=not quiet)
    except RejectBudgetError:
        show_rejects(store.require("embed").summary, console)
        raise
    if quiet:
        return
    show_rejects(metrics.get("embed", {}), console)
    if "consensus" in metrics:
        console.print(consensus_table(metrics["consensus"]))
    console.print_line(f"Results are in {settings.out}: see `icce status {settings.out}`")
    page = store.report()
    if page is not None:
        console.print_line(f"Look at them: {page}")


def settings(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A stage such as heads, or one setting; by default all.")
    ] = None,
) -> None:
    """List the settings for --set and --config: name, default, meaning.

    Example: icce settings neighbors
    """
    from icce_ray.settings.loading import described

    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].max_width = 26
    for one in described(name):
        words = [word for word in one.choices if word not in one.meaning]
        choices = f" One of {', '.join(one.choices)}." if words else ""
        table.add_row(one.name, one.default, f"{one.meaning}{choices}")
    Terminal(wide=_WIDTH).print(table)
