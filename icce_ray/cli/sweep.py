"""`icce sweep`: many settings over one embedding, and which did best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from icce_ray.terminal import Terminal

if TYPE_CHECKING:
    import pyarrow as pa

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
_PERCENT = {
    "neighbor_accuracy": "of class %",
    "best_head_acc": "best head %",
    "mean_head_acc": "all heads %",
    "acc": "ACC %",
    "classifier_acc": "classifier %",
    "heldout_accuracy": "held-out %",
}
#: Where the output is no terminal, which would tell its width.
_WIDTH = 160


def sweep(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Directory or URI of a run.")],
    params: Annotated[list[str], typer.Option("--param", metavar="NAME=VALUES", help="May be repeated.")],
    search: Annotated[str, typer.Option(metavar="HOW", help="grid, random; asha stops most early.")] = "grid",
    samples: Annotated[int | None, typer.Option(metavar="N", help="Draw N trials, not all combinations.")] = None,
    sweep_seed: Annotated[int, typer.Option(metavar="N", help="Of the draws.")] = 0,
    labels: Annotated[str | None, typer.Option(metavar="FILE", help="As for `icce evaluate`.")] = None,
    classifier: Annotated[bool, typer.Option("--classifier", metavar="", help="Train the classifier too.")] = False,
    grace: Annotated[int | None, typer.Option(metavar="N", help="Of asha: epochs before it stops any.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="By default those of the settings.")] = None,
    at_once: Annotated[int | None, typer.Option(metavar="N", help="Trials; by default one a GPU, or a CPU.")] = None,
    take_over: Annotated[bool, typer.Option("--take-over", metavar="", help="End whoever else writes there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show no progress.")] = False,
) -> None:
    """See HELP, which `icce sweep --help` shows."""
    from icce_ray import pipeline
    from icce_ray.settings.sweep import Sweep

    options: dict[str, Any] = {"search": search, "samples": samples, "seed": sweep_seed, "labels": labels}
    asked = Sweep.of(params, classifier=classifier, grace=grace, **options)
    table = pipeline.sweep_run(run, asked, name=name, at_once=at_once, take_over=take_over, verbose=not quiet)
    console = Terminal(wide=_WIDTH)
    console.print(trials_table(table, [param.name for param in asked.params], labelled=labels is not None))
    console.print_line(f"Table and plot are in {run}/sweeps/{name or asked.default_name}/")


def trials_table(results: pa.Table, params: list[str], *, labelled: bool) -> Table:
    """A row a trial; with labels the columns of the paper's Table 11. The best one is marked."""
    from icce_ray.settings.params import short

    rows = results.to_pylist()
    best = max((row for row in rows if row["objective"] is not None), key=lambda row: row["objective"], default=None)
    percent = {key: text for key, text in _PERCENT.items() if any(row[key] is not None for row in rows)}
    objective = "ACC" if labelled else "modularity"
    table = Table(title=f"Best by {objective}: {_named(best, params)}", title_justify="left")
    for text in (*(param.rpartition(".")[2] for param in params), "neighbours", *percent.values()):
        table.add_column(text, justify="right")
    for text in ("ANMI", "modularity", "clusters", "s"):
        table.add_column(text, justify="right")
    for row in rows:
        cells = [short(row[param]) for param in params]
        cells += [_number(row["mean_neighbors"], ".1f")]
        for key in percent:
            spread = f" ± {100 * row['std_head_acc']:.2f}" if key == "mean_head_acc" and row[key] is not None else ""
            cells.append(_number(row[key], ".2f", 100) + spread)
        cells += [_number(row["anmi"], ".4f"), _number(row["modularity"], ".4f"), _number(row["used_clusters"], "d")]
        cells.append(_number(row["seconds"], ".1f") if row["state"] == "complete" else _ended(row))
        table.add_row(*cells, style="bold" if row is best else None)
    return table


def _named(row: dict[str, Any] | None, params: list[str]) -> str:
    from icce_ray.settings.params import short

    return "none" if row is None else ", ".join(f"{param}={short(row[param])}" for param in params)


def _number(value: Any, how: str, factor: float = 1) -> str:
    return "" if value is None else format(value * factor, how)


def _ended(row: dict[str, Any]) -> str:
    return f"{row['state']}: {row['reason']}" if row["reason"] else f"{row['state']} at epoch {row['epochs']}"


def sweeps_of(store: Store) -> dict[str, int]:
    """The sweeps of a run by name, and how many trials of each have ended."""
    from icce_ray.store import SWEEPS

    found: dict[str, int] = {}
    for path, _ in store.storage.list(SWEEPS):
        name, *inside = path.removeprefix(f"{SWEEPS}/").split("/")
        ended = len(inside) == 2 and inside[0] == "trials" and inside[1].endswith(".json")
        found[name] = found.get(name, 0) + ended
    return found
