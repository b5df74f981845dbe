"""The whole run, stage by stage, in the order of the paper. Read this first.

    list -> embed -> sample -> neighbors -> heads -> consensus -> classifier -> predict -> inspect

Stages hand over artifacts under the run's directory and nothing else, so that each may be skipped when its marker
stands and a killed run is resumed by the same command. `icce`, the jobs and `icce_ray.run` all come here; what is done
with a run that exists is in `commands`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from icce_ray.io.locations import check_writable
from icce_ray.io.sources import Source, SourceSpec, find_source
from icce_ray.planning.memory import check_heads_fit
from icce_ray.progress import RunProgress
from icce_ray.settings import Settings, SettingsError
from icce_ray.spelling import did_you_mean
from icce_ray.stages import classifier, complete, consensus, embed, heads, inspect, listing, neighbors, predict, sample
from icce_ray.stages.cluster import Resources, check_device, resources
from icce_ray.stages.connection import connected
from icce_ray.stages.neighbors.layout import check_here, check_search
from icce_ray.stages.spans import spans_of
from icce_ray.stages.tracking import TrackedRun, check_trackers, tracked
from icce_ray.stages.truth import read_truth
from icce_ray.store import RunError, Store, artifacts, check_files, fingerprint
from icce_ray.store.lock import RunLock
from icce_ray.store.views import figures_of, most_heads, spaces_of, widths_of

#: Seconds after which images are embedded while others are still listed. What is wrong of a small source is found, and
#: the number of its images is known, before anything else is done.
LISTING_ALONE = 10.0

STAGES = {
    "embed": embed.run,
    "sample": sample.run,
    "neighbors": neighbors.run,
    "heads": heads.run,
    "consensus": consensus.run,
    "classifier": classifier.run,
    "predict": predict.run,
    "inspect": inspect.run,
}


def run(
    settings: Settings,
    *,
    first: str = "embed",
    last: str = "inspect",
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
    store, wanted = Store(settings.out), _between(first, last, redo)
    source = _check_inputs(settings)
    writer = writing(store, "icce run", verbose=verbose, take_over=take_over, redo=redo)
    with writer as (display, lock), ExitStack() as ends:
        settings = store.as_begun(settings)
        begun = _list(settings, source, store, redo, display, lock, ends)
        todo = _todo(store, wanted)
        if todo:
            check_files(store, *artifacts.stages_before(todo[0]))
            store.metrics()
            store.storage.delete(artifacts.REPORT)  # of what is about to change
            going_on = ["list"] if begun else []
            display.plan([one for one in artifacts.stages_before(last) if one not in (*todo, *going_on)], todo)
            with connected(), tracked(settings, store, display, check=lock.check, redo=redo) as tracking:
                device, counted = None, todo[len(going_on) :]  # stages that know the number of images
                for stage in todo:
                    available = resources(settings.resources, device=device, log=display.log_as("cluster"))
                    if stage in counted[:1] and "neighbors" in todo:
                        check_search(settings, store.require("list").summary["images"], available)
                    device = available.device  # of the stages to come too
                    _run_stage(stage, settings, store, available, tracking, lock, begun if stage == "embed" else None)
        else:
            display.log("run", f"nothing to do: {first} to {last} of {store.root} are complete")
        if store.marker("predict") is not None and not store.storage.exists(artifacts.REPORT):
            write_report(store, display, lock)
    embed.check_budget(store.marker("embed"), settings.embed.reject_budget)
    return store.metrics()


def _run_stage(
    stage: str,
    settings: Settings,
    store: Store,
    available: Resources,
    tracking: TrackedRun,
    lock: RunLock,
    begun: listing.Listing | None = None,
) -> None:
    if stage != "embed":
        embed.check_enough(store, settings.fewest_clusters)
    resolved = store.resolved(settings)  # numbers in place of `auto`
    with tracking.stage(stage) as progress:
        _check_memory(stage, resolved, store, available, progress.log)
        beside = {} if begun is None else {"listing": begun}
        work = functools.partial(STAGES[stage], resolved, store, available, progress, **beside)
        marker = complete(stage, store, fingerprint(settings, stage), work, lock.check)
        store.record(stage, marker.summary | {"seconds": marker.seconds})


def _check_memory(
    stage: str, settings: Settings, store: Store, available: Resources, log: Callable[[str], None]
) -> None:
    """Raise RunError where the heads cannot fit the GPUs: before mining, as far as it is known, and before training."""
    if stage not in ("neighbors", "heads") or not available.gpu_memory:
        return
    embedded, mined = store.require("embed").summary, store.marker("neighbors")
    images = min(embedded["ok"], settings.heads.max_images)
    for space in spaces_of(embedded):
        by_space = mined.summary["by_space"] if space and mined is not None else {}
        check_heads_fit(
            settings,
            images=images,
            dims=widths_of(embedded, space, by_space),
            heads=functools.partial(most_heads, space),
            pairs=None if mined is None else figures_of(mined.summary, space).get("pairs"),
            workers=lambda chosen: heads.workers_of(chosen, available),
            gpu_memory=available.gpu_memory,
            log=log,
        )


def _between(first: str, last: str, redo: str | None) -> list[str]:
    """Stages from `first` to `last`. Raises SettingsError unless both exist, in this order, and `redo` too."""
    order = list(STAGES)
    for option, name, stages in (("from", first, order), ("until", last, order), ("redo", redo, [*artifacts.STAGES])):
        if name is not None and name not in stages:
            hint = did_you_mean(name, stages)
            raise SettingsError(f"--{option} {name}: there is no such stage; {hint}stages are {', '.join(stages)}")
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


def _check_inputs(settings: Settings) -> Source:
    """What can be wrong before anything is written; the source."""
    check_trackers(settings)
    source = find_source(SourceSpec(settings.source, **settings.list.model_dump()))
    info, components = embed.described_input(source, settings.embed), settings.neighbors.components
    dim = min((stop - start for start, stop in spans_of(info).values()), default=info.dim)
    if components is not None and components > dim:
        raise SettingsError(
            f"neighbors.components = {components} of features of {dim} dimensions: give at most {dim}, or 0 to leave "
            "them as they are"
        )
    check_device(settings.resources)
    check_here(settings)
    if settings.neighbors.labels is not None:
        read_truth(settings.neighbors.labels)
    return source


def _list(
    settings: Settings,
    source: Source,
    store: Store,
    redo: str | None,
    display: RunProgress,
    lock: RunLock,
    ends: ExitStack,
) -> listing.Listing | None:
    """Bind the run to its settings and list the source, once; what can be wrong of these is found here.

    Returns the listing if it takes long: it goes on until `ends`.
    """

    def work(beside: listing.Listing) -> None:
        with display.stage("list") as progress:
            work = functools.partial(listing.run, source, store, progress, settings.embed.rows_per_shard, beside)
            marker = complete("list", store, fingerprint(settings, "list"), work, lock.check)
        listing.check_clusters(settings, marker.summary["images"])

    if redo is not None:  # before it deletes anything
        check_files(store, *artifacts.stages_before(redo))
    listed = store.marker("list") if redo != "list" else None
    if listed is not None:
        listing.check_clusters(settings, listed.summary["images"])
    new = store.claim(settings, redo=redo)
    try:
        if listed is not None:
            listing.check_unchanged(source, listed.summary)
            return None
        begun = ends.enter_context(listing.Listing(source, store, work))
        return None if begun.ended(LISTING_ALONE) else begun
    except (ValueError, RunError):
        if new:  # nothing was done yet: other settings may take the place
            store.abandon()
        raise


@contextmanager
def writing(
    store: Store, command: str, *, verbose: bool, take_over: bool, redo: str | None = None
) -> Iterator[tuple[RunProgress, RunLock]]:
    """The display, and the lock of the only process that writes to the store. RunError if another one does."""
    with RunProgress(verbose=verbose) as display:
        check_writable(store.root)
        with RunLock(store.root, command=command, take_over=take_over, log=display.log_as("lock")) as lock:
            if redo is not None and lock.settle:  # else its workers would write into the place that is cleared
                wait = f"waiting {lock.settle:.0f} s for what the former holder started, before --redo deletes"
                display.log("lock", wait)
                time.sleep(lock.settle)
            yield display, lock


def write_report(store: Store, display: RunProgress, lock: RunLock, *, names: str | None = None) -> str:
    """Write the page of a run as far as it is complete; its path or URI."""
    from icce_ray.report import page  # Plotly and Jinja take 0.2 s that no other command should pay

    with display.stage("report") as progress:
        lock.check()
        return page.write_report(store, progress, names=names)
