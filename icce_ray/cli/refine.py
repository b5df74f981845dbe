"""`icce refine`: what people decided about the classes, carried out."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.cli.options import Quiet, Run, TakeOver
from icce_ray.store import Store
from icce_ray.terminal import Terminal


def refine(
    run: Run,
    decisions: Annotated[str, typer.Option(metavar="FILE", help="decisions.json, as the page of a report saves it.")],
    names: Annotated[
        str | None, typer.Option(metavar="FILE", help="CSV: label, name of the classes that were decided about.")
    ] = None,
    skip_gone: Annotated[
        bool, typer.Option("--skip-gone", metavar="", help="Leave decisions about what is gone out, and name them.")
    ] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Carry out what you decided about the classes of RUN.

    Open the report, rename, merge, split and reject classes, move images,
    and save decisions.json. This makes a new version of the run from it,
    RUN/versions/1, with labels, classifier, predictions and a report that
    shows what changed. Nothing of the run is overwritten; the same file
    again gives the same version. A version takes decisions as the run does.

    Other commands take a version with --version 1, or RUN/versions/1.

    Example: icce refine runs/photos --decisions decisions.json
    """
    from icce_ray import refining
    from icce_ray.settings import ResourceSettings, load_as

    limits = load_as(ResourceSettings, {"device": device})
    done = refining.refine(
        run, decisions, names=names, skip_gone=skip_gone, limits=limits, take_over=take_over, verbose=not quiet
    )
    errors = Terminal(stderr=True)
    for line in done["left_out"]:
        errors.print_line(f"left out: {line}")
    if quiet:
        return
    console, scores = Terminal(), done["evaluation"]
    if scores and scores["before"]:
        before, after = (scores[when]["classifier_seen"]["acc"] for when in ("before", "after"))
        console.print_line(f"ACC {before:.2%} before, {after:.2%} after")
    console.print_line(f"version {done['version']}, {done['classes']:,} classes: {Store(done['root']).report()}")


def version_states(run: Store) -> list[str]:
    """A line for each version of a run: what it was made from, and whether it is complete."""
    from icce_ray.store.versions import refinement_of, versions

    lines = []
    for number, one in versions(run).items():
        refinement = refinement_of(one)
        if refinement is not None:
            base = f"version {refinement.base}" if refinement.base else "the run"
            state = "complete" if one.report() else "not complete: the same `icce refine` finishes it"
            lines.append(f"version {number}: {refinement.classes:,} classes, from {base}, {state}: {one.root}")
    return lines
