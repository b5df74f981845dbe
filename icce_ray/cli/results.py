"""Commands on a run that exists: predict, evaluate, status, verify, report, export."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.cli.options import EXIT_REJECTS, EXIT_VIOLATIONS, Format, Quiet, Run, Source, TakeOver, Version
from icce_ray.terminal import Terminal

MEGABYTE = 1_000_000


def predict(
    run: Run,
    source: Source,
    out: Annotated[str, typer.Option(metavar="URI", help="Directory for the predictions; not the run itself.")],
    kind: Format = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="Of tables: what to read.")] = None,
    key_column: Annotated[str | None, typer.Option(metavar="NAME", help="Of tables: names an image.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    version: Version = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Label new images with the classifier of a run.

    Writes predictions/part-*.parquet (image_id, uri, key, label, confidence) and rejects; resumes when killed.

    Example: icce predict runs/photos new-photos/ --out runs/photos-new
    """
    from icce_ray import commands
    from icce_ray.cli.tables import show_rejects
    from icce_ray.settings import PredictSettings, load_as
    from icce_ray.store.versions import chosen_version

    listed = {"format": kind or "auto", "column": column, "key_column": key_column}
    values = {"source": source, "out": out, "list": listed, "resources": {"device": device}}
    settings = load_as(PredictSettings, values)
    summary = commands.predict(
        chosen_version(run, version),
        source,
        out,
        kind=settings.list,
        limits=settings.resources,
        take_over=take_over,
        verbose=not quiet,
    )
    if not quiet:
        console = Terminal()
        show_rejects(summary, console)
        console.print_line(
            f"{summary['labelled']:,} images labelled, mean confidence {summary['mean_confidence']:.3f}: {out}"
        )


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
    version: Version = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Score a run against true labels: ACC (Hungarian), NMI, ARI.

    Labels are read here and nowhere else. Figures go to the run's metrics.json.

    Example: icce evaluate runs/photos --labels truth.csv --kmeans
    """
    from icce_ray import commands
    from icce_ray.cli.tables import scores_table
    from icce_ray.report.labels import headline
    from icce_ray.store import Store
    from icce_ray.store.versions import chosen_version

    run = chosen_version(run, version)
    figures = commands.evaluate(
        run, labels, predictions=predictions, kmeans=kmeans, take_over=take_over, verbose=not quiet
    )
    store = Store(run)
    Terminal().print(scores_table(headline(store, figures)))


def status(run: Run) -> None:
    """Show which stages of a run are complete, and who works on it.

    Example: icce status runs/photos
    """
    from icce_ray.cli.refine import version_states
    from icce_ray.cli.sweep import sweeps_of
    from icce_ray.cli.tables import stages_table
    from icce_ray.cli.update import states
    from icce_ray.store import Store
    from icce_ray.store.lock import holder_of

    store = Store(run)
    store.run_file()
    console = Terminal()
    console.print(stages_table(store))
    for name, ended in sweeps_of(store).items():
        console.print_line(f"sweep {name}: {ended:,} trials have ended")
    for line in [*states(store), *version_states(store)]:
        console.print_line(line)
    holder = holder_of(run)
    if holder is not None:
        console.print_line(holder.state())


def verify(run: Run, version: Version = None) -> None:
    """Check everything that `icce run` or `icce predict` has written.

    Checksums, counts, ids, names, lists, labels: one line for each violation, and exit status 4 if there is any.

    Example: icce verify runs/photos
    """
    from icce_ray.store import Store
    from icce_ray.store.verify import violations
    from icce_ray.store.versions import chosen_version

    run, console, count = chosen_version(run, version), Terminal(), 0
    for line in violations(Store(run)):
        console.print_line(line)
        count += 1
    if count:
        raise typer.Exit(EXIT_VIOLATIONS)
    console.print_line(f"{run}: no violations")


def report(
    run: Run,
    names: Annotated[str | None, typer.Option(metavar="FILE", help="CSV: label, name of classes.")] = None,
    version: Version = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
) -> None:
    """Write the page to look at: RUN/report/index.html.

    The verdict, the images of each class, charts, rejects, times and settings in
    one file that needs no network. Every run ends with it, and `icce evaluate`
    renews it; this adds names of classes and new sweeps.

    Example: icce report runs/photos --names names.csv
    """
    from icce_ray import commands
    from icce_ray.store.versions import chosen_version

    page = commands.report(chosen_version(run, version), names=names, take_over=take_over, verbose=not quiet)
    Terminal().print_line(page)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the output of `icce predict`.")],
    out: Annotated[str, typer.Option(help="New local file or folder.")],
    form: Annotated[str, typer.Option("--format", help="See above.")] = "csv",
    names: Annotated[str | None, typer.Option(help="CSV of label and name: names of clusters.")] = None,
    superclasses: Annotated[int | None, typer.Option(metavar="N", help="Of csv, parquet: the tree cut to N.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Link to files of a local folder.")] = False,
    shard_mb: Annotated[int | None, typer.Option(help="Of webdataset: megabytes a tar (1,000).")] = None,
    shard_images: Annotated[int | None, typer.Option(help="Of webdataset: images a tar (10,000).")] = None,
    version: Version = None,
    quiet: Quiet = False,
) -> None:
    """Write the labelled images of RUN, or its classifier, for other tools.

    csv, parquet: one table of uri, key, label, confidence, name.
    imagefolder: a folder a class, for torchvision and Hugging Face.
    webdataset: tar files. fiftyone: FiftyOneImageClassificationDataset.
    datasets, lance: the table that RUN was made from, with labels.
    onnx, torchscript, huggingface, sklearn: a folder with the classifier.
    duplicates, outliers, quality, label-issues: what was found about images,
    as .csv or .parquet.
    atlas: the map with small pictures, a .parquet for Embedding Atlas.

    Files keep their bytes. Exit status 3 if images could not be read any
    more: OUT holds the others, and unreadable.csv names those.

    Example: icce export runs/photos --format imagefolder --out sorted
    """
    from icce_ray.export.atlas import ATLAS, export_atlas
    from icce_ray.export.findings import FINDINGS, export_findings
    from icce_ray.export.formats import PREDICTORS, check_options, export_predictions
    from icce_ray.export.images import UNREADABLE, Exported
    from icce_ray.progress import stage_progress
    from icce_ray.store import Store
    from icce_ray.store.versions import chosen_version

    store, done = Store(chosen_version(run, version)), Exported()
    check_options(form, link, {"images": shard_images, "mb": shard_mb}, names, superclasses=superclasses)
    with stage_progress("export", verbose=not quiet) as progress:
        if form in PREDICTORS:
            from icce_ray.export.predictors import export_predictor

            what = f"classifier of {export_predictor(store, form, out, progress, names=names):,} classes"
        elif form == ATLAS:
            what = f"{export_atlas(store, out, progress, names=names):,} images"
        elif form in FINDINGS:
            what = f"{export_findings(store, form, out, progress):,} findings"
        else:
            limits = {"shard_images": shard_images, "shard_bytes": None if shard_mb is None else shard_mb * MEGABYTE}
            limits["superclasses"] = superclasses
            done = export_predictions(store, form, out, progress, names=names, link=link, **limits)
            what = f"{done.images:,} images"
            what += f" ({done.rejected:,} of rejected classes left out)" if done.rejected else ""
    if not quiet:
        Terminal().print_line(f"{what}: {out}")
    if done.unreadable:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in done.unreadable.most_common())
        Terminal(stderr=True).print_line(
            f"left out: {done.unreadable.total():,} images that cannot be read any more ({reasons}); "
            f"{out}/{UNREADABLE} names them"
        )
        raise typer.Exit(EXIT_REJECTS)
