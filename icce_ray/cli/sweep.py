"""`icce sweep`: many settings over one embedding, and which did best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from icce_ray.cli.options import Quiet, Run, TakeOver
from icce_ray.terminal import Terminal

if TYPE_CHECKING:
    from icce_ray.store import Store

#: A paragraph a line: the terminal wraps them.
HELP = """Try many settings on the features of one run, and say which is best.

`icce run ... --until sample` makes all it needs. Neighbours are mined once, a trial finds what a run with its \
settings would. A killed sweep resumes by the same command. See RUN/sweeps/NAME/.

NAME is any setting after `embed`, VALUES are 0.1:1.0:0.1 (both ends included), a list such as 0,0.5,1 or \
\\[mcla],\\[mcla,hbgf], or, with --samples, a range to draw from: 0.1:1.0, 1e-4:1e-2:log. Several --param combine.

Without labels the best is the consensus that keeps each image's 20 nearest together (modularity; it fails where \
these are of other classes, and finds K to within a few); with --labels, the one of highest ACC.

Example: icce sweep runs/photos --param neighbors.threshold=0.1:1.0:0.1 --labels truth.csv
Example: icce sweep runs/photos --param clusters=10:90:20 --param heads.ce_weight=0,0.5,1 --name k
Example: icce sweep runs/photos --param heads.beta=0.4:1.0 --search asha --samples 60
"""
#: Columns of the table that are shown where a trial has them, by the names of the figures.
_PERCENT = {
    "neighbor_accuracy": "of class %",
    "best_head_acc": "best head %",
    "mean_head_acc": "all heads %",
    "acc": "ACC %",
    "classifier_acc": "classifier %",
    "heldout_accuracy": "held-out %",
}
#: Of the table where the output is not a terminal.
_WIDTH = 160


def sweep(
    run: Run,
    params: Annotated[list[str], typer.Option("--param", metavar="NAME=VALUES", help="May be repeated.")],
    search: Annotated[str, typer.Option(metavar="HOW", help="grid, random; asha stops most early.")] = "grid",
    samples: Annotated[int | None, typer.Option(metavar="N", help="Draw N trials, not all combinations.")] = None,
    sweep_seed: Annotated[int, typer.Option(metavar="N", help="Of the draws.")] = 0,
    labels: Annotated[str | None, typer.Option(metavar="FILE", help="As for `icce evaluate`.")] = None,
    classifier: Annotated[bool, typer.Option("--classifier", metavar="", help="Train the classifier too.")] = False,
    grace: Annotated[int | None, typer.Option(metavar="N", help="Of asha: epochs before it stops any.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="By default those of the settings.")] = None,
    at_once: Annotated[int | None, typer.Option(metavar="N", help="Trials; by default one a GPU, or a CPU.")] = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """See HELP, which `icce sweep --help` shows."""
    from icce_ray import commands
    from icce_ray.settings.sweep import Sweep

    options: dict[str, Any] = {"search": search, "samples": samples, "sweep_seed": sweep_seed, "labels": labels}
    asked = Sweep.of(params, classifier=classifier, grace=grace, **options)
    table = commands.sweep(run, asked, name=name, at_once=at_once, take_over=take_over, verbose=not quiet)
    console = Terminal(wide=_WIDTH)
    console.print(trials_table(table.to_pylist(), [param.name for param in asked.params], labelled=labels is not None))
    console.print_line(f"Table and plot are in {run}/sweeps/{name or asked.default_name}/")


def trials_table(rows: list[dict[str, Any]], params: list[str], *, labelled: bool) -> Table:
    """A row for each trial, the best in bold; with labels the columns of the paper's Table 11."""
    from icce_ray.settings.sweep import short

    best = max((row for row in rows if row["objective"] is not None), key=lambda row: row["objective"], default=None)
    winner = ", ".join(f"{param}={short(best[param])}" for param in params) if best else "none"
    objective = "ACC" if labelled else "modularity"
    percent = [key for key in _PERCENT if any(row[key] is not None for row in rows)]
    table = Table(title=f"Best by {objective}: {winner}", title_justify="left")
    headings = [param.rpartition(".")[2] for param in params] + ["neighbours", *(_PERCENT[key] for key in percent)]
    for heading in [*headings, "ANMI", "modularity", "clusters", "s"]:
        table.add_column(heading, justify="right")
    for row in rows:
        figures = {key: _number(row[key], ".2f", 100) for key in percent}
        if row["std_head_acc"] is not None:
            figures["mean_head_acc"] += f" ± {100 * row['std_head_acc']:.2f}"
        cells = [short(row[param]) for param in params] + [_number(row["mean_neighbors"], ".1f"), *figures.values()]
        cells += [_number(row["anmi"], ".4f"), _number(row["modularity"], ".4f"), _number(row["used_clusters"], "d")]
        ending = f": {row['reason']}" if row["reason"] else f" at epoch {row['epochs']}"
        cells.append(_number(row["seconds"], ".1f") if row["state"] == "complete" else row["state"] + ending)
        table.add_row(*cells, style="bold" if row is best else None)
    return table


def _number(value: Any, how: str, factor: float = 1) -> str:
    return "" if value is None else format(value * factor, how)


def sweeps_of(store: Store) -> dict[str, int]:
    """The sweeps of a run by name, and how many trials of each have ended."""
    from icce_ray.store.artifacts import SWEEPS

    counts: dict[str, int] = {}
    for path, _ in store.storage.list(SWEEPS):
        name, *inside = path.removeprefix(f"{SWEEPS}/").split("/")
        counts[name] = counts.get(name, 0) + (inside[0] == "trials" and path.endswith(".json"))
    return counts
