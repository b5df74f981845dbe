"""`icce update`: what was added to a collection since its run, and how far the run still serves it."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.cli.options import EXIT_ADVICE, Format, Quiet, Run, Source, TakeOver, Version
from icce_ray.store import Store
from icce_ray.terminal import Terminal


def update(
    run: Run,
    source: Source,
    kind: Format = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="Of Parquet files: what to read.")] = None,
    key_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of Parquet files: names an image.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    version: Version = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Embed and label the images that neither a run nor its updates know.

    Each update is a folder in RUN/updates; the run itself is not changed.
    A known image of another size is a new version. A killed update goes on.
    With --version all updates are labelled for a refined version too.

    Exit status 5: all are labelled, but a new training is advised, because
    they are unsure, share out among the classes in another way, or lie
    together far from every class: see `icce report`, and docs/growing.md.

    Example: icce update runs/photos photos/
    """
    from icce_ray import commands
    from icce_ray.cli.tables import show_rejects
    from icce_ray.settings import PredictSettings, load_as
    from icce_ray.store.versions import chosen_version

    listed = {"format": kind or "auto", "column": column, "key_column": key_column}
    values = {"source": source, "out": run, "list": listed, "resources": {"device": device}}
    settings = load_as(PredictSettings, values)
    run = chosen_version(run, version)
    done = commands.update(
        run, source, kind=settings.list, limits=settings.resources, take_over=take_over, verbose=not quiet
    )
    console, alarms = Terminal(), [alarm["text"] for figures in done for alarm in figures["alarms"]]
    if not quiet:
        for figures in done:
            show_rejects(figures, console)
            console.print_line(
                f"{figures['labelled']:,} images labelled ({figures['changed']:,} of {figures['images']:,} are new "
                f"versions), mean confidence {figures['mean_confidence']:.3f}"
            )
        if not done:
            console.print_line(f"nothing new in {source}")
    for text in alarms:
        Terminal(stderr=True).print_line(f"a new training is advised: {text}")
    if alarms:
        raise typer.Exit(EXIT_ADVICE)


def states(run: Store) -> list[str]:
    """A line for each update of a run: how far it is, and what it found."""
    from icce_ray.store.updates import updates

    lines = []
    for number, one in enumerate(updates(run), 1):
        listed, labelled = one.require("list").summary, one.marker("predict")
        state = "complete" if labelled else "not complete: icce update finishes it"
        alarms = len(labelled.summary["alarms"]) if labelled else 0
        advice = f"; a new training is advised ({alarms} reasons, see the report)" if alarms else ""
        source = one.prediction_file()["source"]
        lines.append(
            f"update {number}: {listed['images']:,} of {listed['listed']:,} images of {source}, {state}{advice}"
        )
    return lines
