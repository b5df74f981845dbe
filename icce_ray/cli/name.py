"""The command that guesses names of classes."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.cli.options import Quiet, Run, TakeOver, Version
from icce_ray.terminal import Terminal


def name(
    run: Run,
    vocabulary: Annotated[
        str, typer.Option(metavar="FILE", help="Text, one word or phrase a line; or wordnet-nouns, if installed.")
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="CLIP or SigLIP: a local directory or an id on the model hub.")
    ],
    images: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Images of each class that are looked at.")
    ] = 64,
    distinct: Annotated[bool, typer.Option("--distinct", metavar="", help="No two classes get the same name.")] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    version: Version = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Guess names of the classes of RUN: which words lie closest to their images.

    A model of images and text compares the most confident images of each
    class with every word of a vocabulary. RUN/names.csv gets the three best
    words and their cosines; a small margin means that the model wavers.

    `icce report` and `icce export` show these guesses with a question mark,
    unless --names gives others. To keep some, correct a copy of the file,
    change `guess` in its column source, and give it with --names.

    Example: icce name runs/photos --vocabulary words.txt --model openai/clip-vit-large-patch14
    """
    from icce_ray import commands
    from icce_ray.settings import ResourceSettings, load_as
    from icce_ray.store import Store
    from icce_ray.store.artifacts import CLASS_NAMES
    from icce_ray.store.versions import chosen_version

    run = chosen_version(run, version)
    limits = load_as(ResourceSettings, {"device": device})
    guesses = commands.name(
        run,
        model,
        vocabulary,
        per_class=images,
        distinct=distinct,
        limits=limits,
        take_over=take_over,
        verbose=not quiet,
    )
    if quiet:
        return
    console = Terminal()
    for guess in guesses:
        ranked = zip(guess.words, guess.cosines, strict=True)
        best = ", ".join(f"{word} {cosine:.3f}" for word, cosine in ranked) or "no image could be read"
        console.print_line(f"{guess.label}: {best}")
    console.print_line(Store(run).storage.uri(CLASS_NAMES))
