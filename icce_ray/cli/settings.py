"""`icce settings`: what `--set` and the lines of a `--config` may be."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from icce_ray.terminal import Terminal

#: Where the output is no terminal, which would tell its width.
_WIDTH = 160


def settings(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A stage such as heads, or one setting; by default all.")
    ] = None,
) -> None:
    """List the settings for --set and --config: name, default, meaning.

    Example: icce settings neighbors
    """
    from icce_ray.settings.described import described

    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].max_width = 26
    for one in described(name):
        words = [word for word in one.choices if word not in one.meaning]
        choices = f" One of {', '.join(one.choices)}." if words else ""
        table.add_row(one.name, one.default, f"{one.meaning}{choices}")
    Terminal(wide=_WIDTH).print(table)
