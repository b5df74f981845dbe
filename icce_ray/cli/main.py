"""The `icce` command: a thin face over `icce_ray.pipeline`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from icce_ray.cli.export import export
from icce_ray.cli.interrupts import interruptible
from icce_ray.cli.plan import plan
from icce_ray.cli.report import report
from icce_ray.cli.settings import settings
from icce_ray.cli.sweep import HELP, sweep, sweeps_of
from icce_ray.terminal import Terminal, escape_unencodable
from icce_ray.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Unlabelled images in; K classes, a classifier and the evidence for both out.\n\n"
    "Try `icce demo` first. `icce COMMAND --help` has the options of a command.\n"
    "Example: icce run photos/ --clusters 20 --out runs/photos",
)

#: What went wrong, by exit status. 1 is an error of the run, 2 of the command line.
EXIT_ERROR, EXIT_USAGE, EXIT_REJECTS, EXIT_VIOLATIONS = 1, 2, 3, 4

#: Headings of the longer lists of options.
SETTINGS, STAGES = "Settings", "Stages, and a run that was killed"
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="One setting, such as heads.epochs=200; may be repeated. `icce settings` lists them.",
        rich_help_panel=SETTINGS,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="YAML file of settings; --set and options win.", rich_help_panel=SETTINGS),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show no progress.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", metavar="", help="End whoever else writes there: a run that you know is dead.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Directory or URI of a run.")]
Kind = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORM",
        help="files, webdataset, img2dataset, parquet, uris or features; by default found by looking.",
    ),
]
SOURCE_HELP = "Folder or prefix of images, .tar or .parquet files, .txt list of URIs, .npy features; a path or URI."


def _version(wanted: bool) -> None:
    if wanted:
        Terminal().print_line(f"icce-ray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _count(text: str) -> int | str:
    """A number where it is one; the settings say what is wrong with anything else."""
    return int(text) if text.lstrip("-").isdecimal() else text


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    out: Annotated[str, typer.Option(metavar="RUN", help="Directory or URI of the run.")],
    clusters: Annotated[
        Any, typer.Option("--clusters", "-k", metavar="K", parser=_count, help="Number of classes, or auto: find it.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="facebook/dinov2-{small,base,large,giant}, a local directory, or hog (no download)."
        ),
    ] = None,
    kind: Kind = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of all random numbers.", rich_help_panel=SETTINGS)
    ] = None,
    config: Config = None,
    overrides: Set = None,
    first: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="First stage to run.", rich_help_panel=STAGES)
    ] = "embed",
    last: Annotated[
        str, typer.Option("--until", metavar="STAGE", help="Last stage to run.", rich_help_panel=STAGES)
    ] = "predict",
    redo: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Delete this stage and all after it; run them.", rich_help_panel=STAGES),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", metavar="", help="End whoever else writes there.", rich_help_panel=STAGES),
    ] = False,
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
    extra = [f"embed.backbone={backbone}"] if backbone else []
    extra += [f"list.format={kind}"] if kind else []
    settings = load(values, config=config, overrides=[*(overrides or []), *extra])
    console = Terminal()
    try:
        metrics = pipeline.run(settings, first=first, last=last, redo=redo, take_over=take_over, verbose=not quiet)
    except RejectBudgetError:
        show_rejects(_embedded(settings.out), console)
        raise
    if quiet:
        return
    show_rejects(metrics.get("embed", {}), console)
    if "consensus" in metrics:
        console.print(consensus_table(metrics["consensus"]))
    console.print_line(f"Results are in {settings.out}: see `icce status {settings.out}`")
    page = Store(settings.out).report()
    if page is not None:
        console.print_line(f"Look at them: {page}")


def _embedded(root: str) -> dict[str, Any]:
    from icce_ray.store import Store

    return Store(root).require("embed").summary


@app.command()
def predict(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    out: Annotated[str, typer.Option(metavar="URI", help="Directory for the predictions; not the run itself.")],
    kind: Kind = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="Of Parquet files: what to read.")] = None,
    key_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of Parquet files: names an image.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Label new images with the classifier of a run.

    Writes predictions/part-*.parquet (image_id, uri, key, label, confidence) and rejects; resumes when killed.

    Example: icce predict runs/photos new-photos/ --out runs/photos-new
    """
    from icce_ray import pipeline
    from icce_ray.cli.tables import show_rejects
    from icce_ray.settings import load

    # Through the same door as a run's settings, for the same errors.
    listed = {"format": kind or "auto", "column": column, "key_column": key_column}
    values = {"source": source, "out": out, "clusters": 2, "list": listed, "resources": {"device": device}}
    settings = load(values)
    summary = pipeline.predict_source(
        run, source, out, kind=settings.list, limits=settings.resources, take_over=take_over, verbose=not quiet
    )
    if not quiet:
        console = Terminal()
        show_rejects(summary, console)
        console.print_line(
            f"{summary['labelled']:,} images labelled, mean confidence {summary['mean_confidence']:.3f}: {out}"
        )


@app.command()
def evaluate(
    run: Run,
    labels: Annotated[
        str, typer.Option(metavar="FILE", help="CSV or Parquet: label, and one of uri, key, path, image_id.")
    ],
    predictions: Annotated[
        str | None, typer.Option(metavar="URI", help="Output of `icce predict`, scored as unseen images.")
    ] = None,
    kmeans: Annotated[
        bool, typer.Option("--kmeans", metavar="", help="Also k-means on the same features (best of 10).")
    ] = False,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Score a run against true labels: ACC (Hungarian), NMI, ARI.

    Labels are read here and nowhere else. Figures go to the run's metrics.json.

    Example: icce evaluate runs/photos --labels truth.csv --kmeans
    """
    from icce_ray import pipeline
    from icce_ray.cli.tables import scores_table
    from icce_ray.report.scores import headline
    from icce_ray.store import Store

    figures = pipeline.evaluate_run(
        run, labels, predictions=predictions, kmeans=kmeans, take_over=take_over, verbose=not quiet
    )
    store = Store(run)
    Terminal().print(scores_table(headline(store.settings(), store, figures)))


app.command(help=HELP)(sweep)


@app.command()
def status(run: Run) -> None:
    """Show which stages of a run are complete, and who works on it.

    Example: icce status runs/photos
    """
    from icce_ray.cli.tables import stages_table
    from icce_ray.lock import holder_of
    from icce_ray.store import Store

    store = Store(run)
    store.run_file()
    console = Terminal()
    console.print(stages_table(store))
    for name, ended in sweeps_of(store).items():
        console.print_line(f"sweep {name}: {ended:,} trials have ended")
    holder = holder_of(run)
    if holder is not None:
        console.print_line(holder.state())


@app.command()
def verify(run: Run) -> None:
    """Check everything that `icce run` or `icce predict` has written.

    Checksums, counts, ids, names, lists, labels: one line for each violation, and exit status 4 if there is any.

    Example: icce verify runs/photos
    """
    from icce_ray.stages.verify import violations
    from icce_ray.store import Store

    console, found = Terminal(), 0
    for line in violations(Store(run)):
        console.print_line(line)
        found += 1
    if found:
        raise typer.Exit(EXIT_VIOLATIONS)
    console.print_line(f"{run}: no violations")


@app.command()
def demo(
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="For images and runs; a run there is resumed.")
    ] = "demo-run",
    seed: Annotated[int, typer.Option(metavar="N", help="Of all random numbers.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Cluster the 1,797 real digits that scikit-learn brings; score it.

    A fifth of them is kept aside and predicted as unseen. Needs no download and about a minute.

    Example: icce demo
    """
    from icce_ray.cli.demo import run_demo

    run_demo(out, seed=seed, quiet=quiet)


app.command()(settings)
app.command()(plan)
app.command()(report)
app.command()(export)


def main(command: Callable[..., Any] = app, **options: Any) -> None:
    """Entry point: every foreseen error is one message and an exit status, never a trace."""
    escape_unencodable()
    with interruptible():
        try:
            command(standalone_mode=True, **options)
        except Exception as error:
            status = _foreseen(error)
            if status is None:
                raise
            reason = getattr(error, "cause", error)  # an error of a task on the cluster, without the task's trace
            Terminal(stderr=True).print_lines(f"error: {reason}")
            sys.exit(status)


def _foreseen(error: Exception) -> int | None:
    """Exit status of an error that we know; None of any other. The classes are imported when there is an error."""
    from icce_ray.backbones import BackboneError
    from icce_ray.io.locations import LocationError
    from icce_ray.io.sources import SourceError
    from icce_ray.settings import SettingsError
    from icce_ray.store import RejectBudgetError, RunError, UsageError

    if isinstance(error, RejectBudgetError):
        return EXIT_REJECTS
    if isinstance(error, (SettingsError, LocationError, UsageError)):
        return EXIT_USAGE
    if isinstance(error, (RunError, SourceError, BackboneError, OSError)):  # OSError: storage says what and where
        return EXIT_ERROR
    return None
