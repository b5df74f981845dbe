"""The whole run, stage by stage, in the order of the paper. Read this first.

    list -> embed -> sample -> neighbors -> heads -> consensus -> classifier -> predict   (evaluate, with labels)

Stages hand over artifacts under the run's directory and nothing else, so that each may be skipped when its marker
stands and a killed run is resumed by the same command. `icce`, the jobs and `icce_ray.run` all come here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from icce_ray.core.cluster_count import in_reach
from icce_ray.io.locations import check_writable
from icce_ray.io.sources import Source, SourceSpec, find_source, found_source, open_source
from icce_ray.lock import RunLock
from icce_ray.progress import RunProgress
from icce_ray.settings import ListSettings, ResourceSettings, Settings, SettingsError
from icce_ray.settings.sweep import Sweep, trials
from icce_ray.spelling import did_you_mean
from icce_ray.stages import classifier, consensus, embed, evaluate, heads, listing, neighbors, predict, sample
from icce_ray.stages.cluster import Resources, check_device, resources
from icce_ray.stages.connection import connected
from icce_ray.stages.embed import described_input
from icce_ray.stages.tracking import TrackedRun, check_trackers, tracked
from icce_ray.stages.truth import read_truth
from icce_ray.store import Marker, RejectBudgetError, RunError, Store, artifacts, check_files, fingerprint

STAGES = {
    "embed": embed.run,
    "sample": sample.run,
    "neighbors": neighbors.run,
    "heads": heads.run,
    "consensus": consensus.run,
    "classifier": classifier.run,
    "predict": predict.run,
}


def run(
    settings: Settings,
    *,
    first: str = "embed",
    last: str = "predict",
    redo: str | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Run the stages `first` to `last` that are not complete; returns the content of `metrics.json`.

    `redo` repeats the run from that stage on, and may come with other settings for it and what follows. `take_over`
    ends whoever else works on the run. Raises SettingsError for a stage that is none; SourceError, BackboneError,
    RunError before any work where the fault can be known; RejectBudgetError at the end, when every stage is complete
    but too many inputs were rejected.
    """
    store = Store(settings.out)
    wanted = _between(first, last, redo)
    source = _check_inputs(settings)
    with _locked(store, "icce run", verbose, take_over, redo) as (display, lock):
        _prepare(settings, source, store, redo, display, lock)
        todo = _todo(store, wanted)
        if todo:
            check_files(store, *artifacts.stages_before(todo[0]))
            store.metrics()
            store.storage.delete(artifacts.REPORT)  # of what is about to change
            display.plan([one for one in artifacts.stages_before(last) if one not in todo], todo)
            with connected(), tracked(settings, store, display, check=lock.check, redo=redo) as tracking:
                device = None
                for stage in todo:
                    available = resources(settings.resources, device=device, log=display.log_as("cluster"))
                    device = available.device
                    _run_stage(stage, settings, store, available, tracking, lock)
        else:
            display.log("run", f"nothing to do: {first} to {last} of {store.root} are complete")
        if store.marker("predict") is not None and not store.storage.exists(artifacts.REPORT):
            _report(store, display, lock)
    _check_budget(store.marker("embed"), settings.embed.reject_budget)
    return store.metrics()


def predict_source(
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
    run. Raises as `run` does.
    """
    run_store, out_store, limits = Store(run_root), Store(out), limits or ResourceSettings()
    settings = run_store.settings()
    classifier_marker = run_store.require("classifier")
    check_files(run_store, "classifier")
    check_device(limits)
    if out_store.root == run_store.root:
        raise RunError(f"--out {out} is the run itself, whose predictions are of its own images; give another --out")
    kind = kind or ListSettings()
    found = find_source(SourceSpec(source, **kind.model_dump()))
    predict.check_source(found, run_store)
    described_input(found, settings.embed)
    purpose = {"run": run_store.root, "classifier": classifier_marker.fingerprint, "source": source}
    digest = classifier_marker.fingerprint
    with _locked(out_store, "icce predict", verbose, take_over) as (display, lock):
        out_store.claim_prediction(purpose | kind.model_dump(exclude_defaults=True))
        listed = out_store.marker("list")
        if listed is not None:
            check_files(out_store, "list")
            listing.check_unchanged(found, listed.summary)
        else:
            listed = _list(found, out_store, display, settings.embed.rows_per_shard, digest, lock)
        marker = out_store.marker("predict")
        if marker is None:
            with connected(), display.stage("predict") as progress:
                started = time.monotonic()
                opened = open_source(found_source(source, listed.summary))
                available = resources(limits, log=progress.log)
                files, summary = predict.run_source(run_store, opened, out_store, limits, available, progress)
                seconds = time.monotonic() - started
                lock.check()
                marker = out_store.commit("predict", files, fingerprint=digest, summary=summary, seconds=seconds)
        else:
            display.log("predict", f"nothing to do: {out_store.root} is complete")
    _check_budget(marker, settings.embed.reject_budget)
    return marker.summary


def evaluate_run(
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
    with _locked(store, "icce evaluate", verbose, take_over) as (display, lock):
        with connected(), display.stage("evaluate") as progress:
            available = resources(settings.resources, log=progress.log)
            figures = evaluate.run(store, labels, available, progress, predictions=predictions, kmeans=kmeans)
        lock.check()
        store.record("evaluation", figures)
        with tracked(settings, store, display, check=lock.check) as tracking:
            tracking.log_evaluation(figures)
        if store.storage.exists(artifacts.REPORT):
            _report(store, display, lock)
    return figures


def sweep_run(
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
    from icce_ray.stages import sweep  # Ray Tune and Plotly take a second that no other command should pay

    store = Store(run_root)
    settings = sweep.known(store.settings(), store)
    points = trials(settings, asked)
    check_trackers(settings)
    sweep.check(store, points)
    check_files(store, "list", "embed", "sample", "neighbors")
    if asked.labels is not None:
        read_truth(asked.labels)
    records = sweep.SweepRecords(store, name or asked.default_name)
    with _locked(store, "icce sweep", verbose, take_over) as (display, lock):
        records.claim(settings, asked)
        with connected():
            available = resources(settings.resources, log=display.log_as("cluster"))
            with display.stage("neighbors") as progress:
                lists = sweep.mine(settings, points, records, available, progress)
            with (
                tracked(settings, store, display, check=lock.check, folder=records.folder) as tracking,
                tracking.stage("sweep") as progress,
            ):
                return sweep.run(asked, points, records, lists, available, progress, lock.check, at_once=at_once)


def report_run(run_root: str, *, names: str | None = None, take_over: bool = False, verbose: bool = True) -> str:
    """Write `report/index.html` of a run as far as it is complete; its path or URI. See `icce_ray.report`.

    `names` is a CSV file with names of classes. Raises RunError for what is no run, or has no features yet.
    """
    from icce_ray.report.page import checked

    store = Store(run_root)
    checked(store)
    with _locked(store, "icce report", verbose, take_over) as (display, lock):
        return _report(store, display, lock, names=names)


def _report(store: Store, display: RunProgress, lock: RunLock, *, names: str | None = None) -> str:
    from icce_ray.report.page import write_report  # Plotly and Jinja take 0.2 s that no other command should pay

    with display.stage("report") as progress:
        lock.check()
        return write_report(store, progress, names=names)


@contextmanager
def _locked(
    store: Store, command: str, verbose: bool, take_over: bool, redo: str | None = None
) -> Iterator[tuple[RunProgress, RunLock]]:
    """The display, and the lock of the only process that writes to the store. RunError if another one does."""
    with RunProgress(verbose=verbose) as display:
        check_writable(store.root)
        with RunLock(store.root, command=command, take_over=take_over, say=display.log_as("lock")) as lock:
            if redo is not None and lock.settle:  # else its workers would write into the place that is cleared
                display.log(
                    "lock", f"waiting {lock.settle:.0f} s for what the former holder started, before --redo deletes"
                )
                time.sleep(lock.settle)
            yield display, lock


def _check_inputs(settings: Settings) -> Source:
    """What can be found wrong before anything is written; the source."""
    check_trackers(settings)
    source = find_source(SourceSpec(settings.source, **settings.list.model_dump()))
    described_input(source, settings.embed)
    check_device(settings.resources)
    if settings.neighbors.labels is not None:
        read_truth(settings.neighbors.labels)
    return source


def _prepare(
    settings: Settings, source: Source, store: Store, redo: str | None, display: RunProgress, lock: RunLock
) -> None:
    """What can be found wrong before work starts; binds the run to the settings and lists the source."""
    if redo is not None:  # before it deletes anything
        check_files(store, *artifacts.stages_before(redo))
    listed = store.marker("list") if redo != "list" else None
    if listed is not None:  # before `redo` deletes anything
        _check_clusters(settings, listed)
    new = store.claim(settings, redo=redo)
    try:
        if listed is None:
            digest = fingerprint(settings, "list")
            listed = _list(source, store, display, settings.embed.rows_per_shard, digest, lock)
            _check_clusters(settings, listed)
        else:
            listing.check_unchanged(source, listed.summary)
    except (ValueError, RunError):
        if new:  # nothing was done yet: other settings may take the place
            store.abandon()
        raise


def _check_clusters(settings: Settings, listed: Marker) -> None:
    if settings.count_unknown:
        images = min(listed.summary["images"], settings.heads.max_images)
        try:
            in_reach(images, settings.neighbors.k_min, *settings.neighbors.cluster_range)
        except ValueError as error:
            raise RunError(str(error)) from error
    if settings.fewest_clusters > listed.summary["images"]:
        raise RunError(
            f"clusters = {settings.fewest_clusters} is more than the {listed.summary['images']} images of "
            f"{settings.source}; ask for fewer clusters or give more images"
        )


def _list(source: Source, store: Store, display: RunProgress, rows: int, digest: str, lock: RunLock) -> Marker:
    with display.stage("list") as progress:
        started = time.monotonic()
        store.storage.delete_tree(artifacts.MANIFEST.path)
        files, summary = listing.run(source, store, progress, rows_per_shard=rows)
        left_out = ", ".join(f"{count:,} {kind}" for kind, count in summary["left_out"].items()) or "nothing"
        progress.log(f"{summary['images']:,} images ({summary['source']['format']}); left out: {left_out}")
        lock.check()
        return store.commit("list", files, fingerprint=digest, summary=summary, seconds=time.monotonic() - started)


def _between(first: str, last: str, redo: str | None) -> list[str]:
    """Stages from `first` to `last`. Raises SettingsError unless both exist, in this order, and `redo` too."""
    order = list(STAGES)
    for option, name, known in (("from", first, order), ("until", last, order), ("redo", redo, [*artifacts.STAGES])):
        if name is not None and name not in known:
            hint = did_you_mean(name, known)
            raise SettingsError(f"--{option} {name}: there is no such stage; {hint}stages are {', '.join(known)}")
    begin, end = order.index(first), order.index(last)
    if begin > end:
        raise SettingsError(f"--from {first} comes after --until {last}; stages run in the order {', '.join(order)}")
    return order[begin : end + 1]


def _todo(store: Store, wanted: list[str]) -> list[str]:
    """Incomplete stages of those wanted. Raises RunError if one before them is incomplete."""
    order = list(STAGES)
    for earlier in order[: order.index(wanted[0])]:
        store.require(earlier)
    return [stage for stage in wanted if store.marker(stage) is None]


def _run_stage(
    stage: str, settings: Settings, store: Store, available: Resources, tracking: TrackedRun, lock: RunLock
) -> None:
    if stage != "embed":
        embed.check_enough(store, settings.fewest_clusters)
    found = neighbors.known(settings, store)  # numbers in place of `auto`
    started = time.monotonic()
    with tracking.stage(stage) as progress:
        files, summary = STAGES[stage](found, store, available, progress)
        seconds = time.monotonic() - started
        lock.check()
        store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=seconds)
        store.record(stage, summary | {"seconds": round(seconds, 3)})


def _check_budget(marker: Marker | None, budget: float) -> None:
    """Raise RejectBudgetError if more inputs were rejected than allowed, naming them."""
    if marker is None or not marker.summary.get("rejected"):
        return
    summary = marker.summary
    share = summary["rejected"] / summary["images"]
    if share > budget:
        raise RejectBudgetError(
            f"{summary['rejected']} of {summary['images']} inputs ({share:.1%}) were rejected, the budget is "
            f"{budget:.1%}: {summary['rejected_by_reason']}. Every stage asked for is complete for the others. "
            "Fix the source, or accept it with --set embed.reject_budget=SHARE"
        )
