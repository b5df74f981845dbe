"""What is done with a run that exists: predict, update, evaluate, sweep, name, report. The run is in `pipeline`."""

from __future__ import annotations

import functools
from typing import Any

from icce_ray.io.sources import FeatureSource, Source, SourceSpec, find_source, found_source, open_source
from icce_ray.io.vocabulary import read_vocabulary
from icce_ray.pipeline import write_report, writing
from icce_ray.progress import RunProgress
from icce_ray.settings import ListSettings, ResourceSettings, Settings
from icce_ray.settings.sweep import Sweep, trials
from icce_ray.stages import complete, embed, growth, listing, novelty
from icce_ray.stages import evaluate as scoring
from icce_ray.stages import predict as labelling
from icce_ray.stages.cluster import check_device, resources
from icce_ray.stages.connection import connected
from icce_ray.stages.tracking import check_trackers, tracked
from icce_ray.stages.truth import read_truth
from icce_ray.store import RunError, Store, artifacts, check_files
from icce_ray.store.lock import RunLock
from icce_ray.store.updates import bind_update, check_updates, update_fingerprints, update_folder, update_of, updates


def predict(
    run_root: str,
    source: str,
    out: str,
    *,
    kind: ListSettings | None = None,
    limits: ResourceSettings | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Label the images of a new source with a run's classifier; predictions and rejects go to `out`.

    `kind` says how to read the source, which need not be of the run's own format. Returns the summary. Resumes like a
    run. Raises as `pipeline.run` does.
    """
    run, store = Store(run_root), Store(out)
    kind, limits = kind or ListSettings(), limits or ResourceSettings()
    settings, classifier = run.settings(), run.require("classifier").fingerprint
    check_files(run, "classifier")
    check_device(limits)
    if store.root == run.root:
        raise RunError(f"--out {out} is the run itself, whose predictions are of its own images; give another --out")
    images = find_source(SourceSpec(source, **kind.model_dump()))
    labelling.check_source(images, run)
    embed.described_input(images, settings.embed)
    purpose = {"run": run.root, "classifier": classifier, "source": source} | kind.model_dump(exclude_defaults=True)
    with writing(store, "icce predict", verbose=verbose, take_over=take_over) as (display, lock):
        store.claim_prediction(purpose)
        listed = store.marker("list")
        if listed is not None:
            check_files(store, "list")
            listing.check_unchanged(images, listed.summary)
        else:
            with display.stage("list") as progress:
                work = functools.partial(listing.run, images, store, progress, settings.embed.rows_per_shard)
                listed = complete("list", store, classifier, work, lock.check)
        marker = store.marker("predict")
        if marker is None:
            with connected(), display.stage("predict") as progress:
                opened = open_source(found_source(source, listed.summary))
                available = resources(limits, log=progress.log)
                work = functools.partial(labelling.run_source, run, opened, store, limits, available, progress)
                marker = complete("predict", store, classifier, work, lock.check)
        else:
            display.log("predict", f"nothing to do: {store.root} is complete")
    embed.check_budget(marker, settings.embed.reject_budget)
    return marker.summary


def update(
    run_root: str,
    source: str,
    *,
    kind: ListSettings | None = None,
    limits: ResourceSettings | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """Embed and label what a source holds and neither the run nor its updates know, into `updates/` of the run.

    Updates that were interrupted, or labelled by a classifier that the run no longer has, are finished first, whatever
    the source. Of a version, its run is updated, and then all updates are labelled for it. Returns the figures of all
    that were worked on, none if there was nothing new; `alarms` among them say why a new training is due. Raises as
    `pipeline.run` does.
    """
    version, kind, limits = Store(run_root), kind or ListSettings(), limits or ResourceSettings()
    run = Store(version.origin or version.root)
    settings = run.resolved(run.settings())
    check_files(version, *artifacts.REFINED)
    run.require("predict")
    check_files(run, "list", "embed", "classifier", "predict")
    check_device(limits)
    images = find_source(SourceSpec(source, **kind.model_dump()))
    labelling.check_source(images, run)
    embed.described_input(images, settings.embed)
    settings = settings.model_copy(update={"resources": limits})
    with writing(run, "icce update", verbose=verbose, take_over=take_over) as (display, lock):
        check_updates(run)
        done = [one for one in updates(run) if _finish(one, run, settings, display, lock)]
        added = _list_new(images, run, settings, display, lock)
        done += [added] if added is not None and _finish(added, run, settings, display, lock) else []
        if done and run.storage.exists(artifacts.REPORT):
            write_report(run, display, lock)
        if version.origin:
            done = label_updates(version, limits, display, lock)
            if done:
                write_report(version, display, lock)
    for one in done:
        embed.check_budget(one.marker("embed"), settings.embed.reject_budget)
    return [one.require("list").summary | one.require("embed").summary | one.require("predict").summary for one in done]


def label_updates(version: Store, limits: ResourceSettings, display: RunProgress, lock: RunLock) -> list[Store]:
    """Label the updates of its run with the classifier of a version; those that were not yet labelled by it."""
    settings = version.settings().model_copy(update={"resources": limits})
    return [one for one in updates(version) if _finish(one, version, settings, display, lock)]


def _list_new(images: Source, run: Store, settings: Settings, display: RunProgress, lock: RunLock) -> Store | None:
    """A new update, which holds what is new in the source; None if nothing is."""
    earlier = updates(run)
    added, folder = update_of(run, len(earlier) + 1), update_folder(len(earlier) + 1)
    run.storage.delete_tree(folder)  # of a listing that was interrupted
    known = [growth.Listed.of(one, one.images()[0]) for one in (run, *earlier)]
    bind_update(added, run, images.spec.location)
    with display.stage("list") as progress:
        work = functools.partial(growth.run, images, known, added, progress, settings.embed.rows_per_shard)
        marker = complete("list", added, update_fingerprints(run)["list"], work, lock.check)
    if marker.summary["images"]:
        return added
    run.storage.delete_tree(folder)
    display.log("update", f"nothing new: {images.spec.location} holds {marker.summary['listed']:,} known images")
    return None


def _finish(one: Store, run: Store, settings: Settings, display: RunProgress, lock: RunLock) -> bool:
    """Do the stages of an update that are not complete; whether there were any."""
    source = Store(one.origin or one.root).images()[0]
    bind_update(one, run, source)
    if one.marker("predict") is not None:
        return False
    settings, digests = settings.model_copy(update={"source": source}), update_fingerprints(run)
    with connected():
        available = resources(settings.resources, log=display.log_as("cluster"))
        if one.marker("embed") is None:
            check_files(one, "list")
            with display.stage("embed") as progress:
                work = functools.partial(embed.run, settings, one, available, progress)
                complete("embed", one, digests["embed"], work, lock.check)
        with display.stage("predict") as progress:
            work = functools.partial(novelty.label, run, one, settings, available, progress)
            complete("predict", one, digests["predict"], work, lock.check)
    return True


def evaluate(
    run_root: str,
    labels: str,
    *,
    predictions: str | None = None,
    kmeans: bool = False,
    take_over: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Scores of everything the run holds against true labels, also kept in `metrics.json`; see `stages.evaluate`."""
    store = Store(run_root)
    settings = store.settings()
    check_trackers(settings)
    store.require("embed")
    check_files(store, *artifacts.STAGES)
    store.metrics()
    read_truth(labels)
    if predictions is not None:
        Store(predictions).require("predict")
        check_files(Store(predictions), "list", "predict")
    with writing(store, "icce evaluate", verbose=verbose, take_over=take_over) as (display, lock):
        with connected(), display.stage("evaluate") as progress:
            available = resources(settings.resources, log=progress.log)
            figures = scoring.run(store, labels, available, progress, predictions=predictions, kmeans=kmeans)
        lock.check()
        store.record("evaluation", figures)
        with tracked(settings, store, display, check=lock.check) as tracking:
            tracking.log_evaluation(figures)
        if store.storage.exists(artifacts.REPORT):
            write_report(store, display, lock)
    return figures


def sweep(
    run_root: str,
    asked: Sweep,
    *,
    name: str | None = None,
    at_once: int | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> Any:
    """Run every trial of a sweep that has not ended; the pyarrow table of all, as `sweeps/NAME/results.parquet`.

    Raises SettingsError for trials that cannot be, RunError for a run that is not embedded or a name that is taken.
    """
    from icce_ray.stages import sweep as trying  # Ray Tune and Plotly take a second that no other command should pay

    store = Store(run_root)
    if store.origin:
        raise RunError(
            f"{store.root} is a refined version, whose classes no head was trained for; sweep {store.origin}"
        )
    settings = store.resolved(store.settings())
    points = trials(settings, asked)
    check_trackers(settings)
    trying.check(store, points)
    check_files(store, "list", "embed", "sample", "neighbors")
    if asked.labels is not None:
        read_truth(asked.labels)
    records = trying.SweepRecords(store, name or asked.default_name, asked, points)
    with writing(store, "icce sweep", verbose=verbose, take_over=take_over) as (display, lock):
        records.claim(settings)
        with connected():
            available = resources(settings.resources, log=display.log_as("cluster"))
            with display.stage("neighbors") as progress:
                lists = trying.mine(settings, records, available, progress, lock.check)
            with (
                tracked(settings, store, display, check=lock.check, folder=records.folder) as tracking,
                tracking.stage("sweep") as progress,
            ):
                return trying.run(records, lists, available, progress, lock.check, at_once=at_once)


def name(
    run_root: str,
    model: str,
    vocabulary: str,
    *,
    per_class: int = 64,
    distinct: bool = False,
    limits: ResourceSettings | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> list[Any]:
    """Guess names of a run's classes by a model of images and text, and write them to `names.csv`; see `stages.naming`.

    Returns a `Guess` for each class. Raises RunError for a run without predictions or images, BackboneError for a model
    that cannot be used, StorageError for a vocabulary that cannot.
    """
    from icce_ray.backbones.image_text import describe_pair  # transformers takes a second
    from icce_ray.stages import naming

    store = Store(run_root)
    settings, limits = store.settings(), limits or ResourceSettings()
    store.require("predict")
    check_files(store, "list", "predict")
    check_device(limits)
    words, info = read_vocabulary(vocabulary), describe_pair(model)
    source = find_source(found_source(settings.source, store.require("list").summary))
    if isinstance(source, FeatureSource):
        raise RunError(f"{store.root} was made from features; names need the images themselves")
    with writing(store, "icce name", verbose=verbose, take_over=take_over) as (display, lock):
        with connected(), display.stage("name") as progress:
            available = resources(limits, log=progress.log)
            work = naming.Naming(store, source, info, limits, available)
            guesses = work.guesses(words, per_class, distinct=distinct, progress=progress)
        lock.check()
        naming.write_names(store, guesses, model)
        if store.storage.exists(artifacts.REPORT):
            write_report(store, display, lock)
    return guesses


def report(run_root: str, *, names: str | None = None, take_over: bool = False, verbose: bool = True) -> str:
    """Write `report/index.html` of a run as far as it is complete; its path or URI. See `icce_ray.report`.

    `names` is a CSV file with names of classes. Raises RunError for what is no run, or has no features yet.
    """
    from icce_ray.report.page import checked

    store = Store(run_root)
    checked(store)
    with writing(store, "icce report", verbose=verbose, take_over=take_over) as (display, lock):
        return write_report(store, display, lock, names=names)
